"""The gap after n iterations against group size, at a fixed budget: universality in n."""

import pandas as pd
from matplotlib.figure import Figure

from figures.gaps import draw_estimators_gaps, draw_gaps
from figures.legends import legend
from figures.palette import command_line
from figures.tables import JOBS, only

NAME = "group_size"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy and checkpoint; columns as `group_size` writes them."""
    budget = only(data, JOBS[NAME])
    label = rf"gap $\mathbb{{E}}\,\Delta_n$ at $N = BG = {budget}$"
    figure = draw_gaps(data, "iteration", draw_estimators_gaps, label)
    legend(figure, "points: measured, with 95 % intervals; lines: first-order laws")
    return figure


if __name__ == "__main__":
    command_line(NAME, build)
