"""The gap against group size under three ways of drawing prompts from a finite set."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.gaps import draw_gaps
from figures.legends import legend
from figures.palette import APART, Look, command_line, draw_series
from figures.tables import JOBS, at_last_iteration, only

NAME = "finite_prompts"

# Not the colours of estimators: all of this is GRPO.
LOOKS: dict[str, Look] = {
    "iid": ("#000000", "p", "-"),
    "without_replacement": ("#CC79A7", "D", (0, (4, 1.5))),
    "epochs": ("#56B4E9", "v", (0, (1, 1.2))),
}
NAMES = {
    "iid": "i.i.d.",
    "without_replacement": "distinct within a minibatch",
    "epochs": "epochs, reshuffled",
}


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy and budget; columns as `finite_prompts` writes them."""
    prompts = only(data, JOBS[NAME])
    last = at_last_iteration(data)
    label = rf"gap $\mathbb{{E}}\,\Delta_n$ after $n = {only(last, 'iteration')}$"
    figure = draw_gaps(last, "budget", _draw_samplings, label)
    points = "points: measured, with 95 % intervals; lines: first-order laws"
    legend(figure, f"GRPO, {prompts} prompts; {points}")
    return figure


def _draw_samplings(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw each way of drawing prompts, side by side."""
    for place, (sampling, rows) in enumerate(panel.groupby("prompt_sampling", sort=False)):
        name = str(sampling)
        columns = ("group_size", "gap")
        draw_series(axes, rows, LOOKS[name], NAMES[name], columns, APART ** (place - 1))


if __name__ == "__main__":
    command_line(NAME, build)
