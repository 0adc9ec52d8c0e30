"""The gap after the last iteration against group size, budget by budget: universality in N."""

import pandas as pd
from matplotlib.figure import Figure

from figures.gaps import draw_estimators_gaps, draw_gaps
from figures.legends import legend
from figures.palette import command_line
from figures.tables import at_last_iteration, only

NAME = "group_size_by_budget"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy and budget; columns as `group_size` writes them."""
    last = at_last_iteration(data)
    label = rf"gap $\mathbb{{E}}\,\Delta_n$ after $n = {only(last, 'iteration')}$"
    figure = draw_gaps(last, "budget", draw_estimators_gaps, label)
    legend(figure, "points: measured, with 95 % intervals; lines: first-order laws")
    return figure


if __name__ == "__main__":
    command_line(NAME, build)
