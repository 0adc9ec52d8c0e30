"""What published rules for the group size cost: their gap over the least, paired run by run."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.legends import legend
from figures.palette import INTERVAL, LOOKS, command_line, panel_grid
from figures.tables import at_last_iteration, only, policies_by

NAME = "group_size_rules"


def build(data: pd.DataFrame) -> Figure:
    """Draw one panel a policy and budget; columns as `group_size_rules` writes them."""
    last = at_last_iteration(data)
    panels = policies_by(last, "budget")
    figure, grid = panel_grid(len(panels), len(set(last["budget"])))
    for axes, (title, panel) in zip(grid, panels, strict=True):
        axes.set_title(title)
        _draw_rules(axes, panel)
        place = axes.get_subplotspec()
        axes.tick_params(labelleft=place is not None and place.is_first_col())
    runs, iteration = only(last, "runs"), only(last, "iteration")
    legend(figure, f"{runs} paired runs, $n = {iteration}$; 95 % intervals")
    return figure


def _draw_rules(axes: Axes, panel: pd.DataFrame) -> None:
    """Draw one line a rule, the first on top; the group size that it picks on the right."""
    colour, marker, _ = LOOKS["grpo"]
    least = panel["gap"] - panel["excess"]
    scaled = panel.assign(
        height=range(len(panel), 0, -1),
        error=100 * INTERVAL * panel["std_error"] / least,
        law=100 * panel["law_excess"] / least,
        measured=100 * panel["relative_excess"],
    )
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    axes.plot(scaled["law"], scaled["height"], "|", color="0", markersize=11, markeredgewidth=1.4,
              label="first-order law", zorder=2)  # fmt: skip
    for chosen, face, name in ((True, colour, "may be best"), (False, "white", "worse")):
        rows = scaled[scaled["in_confidence_set"] == chosen]
        axes.errorbar(rows["measured"], rows["height"], xerr=rows["error"], color=colour,
                      marker=marker, markerfacecolor=face, linestyle="none", capsize=2, zorder=3,
                      label=f"measured: {name} (95 % confidence)")  # fmt: skip
    for height, size in zip(scaled["height"], scaled["group_size"], strict=True):
        axes.text(1.02, height, f"{size}", transform=axes.get_yaxis_transform(), va="center",
                  fontsize="small")  # fmt: skip
    axes.text(1.02, len(panel) + 0.8, "$G$", transform=axes.get_yaxis_transform(), va="center")
    names = scaled["rule"].replace("law (gap)", "law (gap), first order")
    axes.set_yticks(scaled["height"], names)
    axes.set_ylim(0.4, len(panel) + 0.6)
    axes.set_xlabel("excess gap (% of the least)")


if __name__ == "__main__":
    command_line(NAME, build)
