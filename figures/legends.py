"""Legends: outside of the panels, in even columns, and never larger than what they explain."""

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import ScaledTranslation

Entries = dict[str, Artist]
"""Handles by name."""


class Own(NamedTuple):
    """A legend of one panel, or of a row or column of panels that end in it."""

    axes: Axes
    title: str
    entries: Entries


MOST = 10
"""Entries of one legend. Who has more to name needs several legends, or labels in the panel."""
NARROW = 4.0
"""Inches: beside figures no wider than this a legend stands, below all others it lies."""
BESIDE = 34
"""Characters in a line of a note beside a figure."""
_AXIS = 0.48
"""Inches that ticks and label of a horizontal axis take below a panel."""
_BETWEEN = 0.3
"""Inches between legends that stand side by side."""
_ONE_ROW = 0.42
"""Inches of a note and one row of entries, which the heights of figures allow for."""


def legend(figure: Figure, note: str, entries: Entries | None = None) -> None:
    """Put one legend outside of the panels that names what any of them shows, once.

    Args:
        figure: whose panels are drawn; it grows by what the legend needs.
        note: what holds for all panels.
        entries: what to name; all that is labelled if None.
    """
    entries = labelled(figure.axes) if entries is None else entries
    if figure.get_figwidth() <= NARROW and entries:
        drawn = _beside(figure, note, entries)
        width, _ = _inches(drawn)
        figure.set_figwidth(figure.get_figwidth() + width)
        return
    drawn = _below(figure, note, entries)
    _, height = _inches(drawn)
    figure.set_figheight(figure.get_figheight() + max(height - _ONE_ROW, 0.0))


def side_legends(figure: Figure, legends: Sequence[Own]) -> None:
    """Put legends on the right of panels, and widen the figure by what the widest takes."""
    widths = []
    for own in legends:
        drawn = own.axes.legend(list(own.entries.values()), list(own.entries), alignment="left",
                                title=own.title or None, loc="center left", borderaxespad=0.0,
                                bbox_to_anchor=(1.02, 0.5), labelspacing=0.3)  # fmt: skip
        widths.append(_inches(drawn)[0])
    figure.set_figwidth(figure.get_figwidth() + max(widths))


def foot_legends(figure: Figure, legends: Sequence[Own]) -> None:
    """Put legends below panels of the last row, and heighten the figure by what the highest takes.

    Their columns are as many as there is room for in a panel.
    """
    room = figure.get_figwidth() / max(len(legends), 1) - _BETWEEN
    heights = []
    for own in legends:
        below = own.axes.transAxes + ScaledTranslation(0, -_AXIS, figure.dpi_scale_trans)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "bbox_transform": below}

        def draw(names: list[str], columns: int, own: Own = own, place: dict = place) -> Legend:
            return own.axes.legend([own.entries[name] for name in names], names, ncols=columns,
                                   title=own.title or None, borderaxespad=0.0, columnspacing=1.2,
                                   handlelength=1.6, **place)  # fmt: skip

        heights.append(_inches(_in_columns(draw, list(own.entries), room))[1])
    figure.set_figheight(figure.get_figheight() + max(heights))


def labelled(panels: Sequence[Axes]) -> Entries:
    """Return what is labelled in any of some panels, each name once."""
    found: Entries = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return found


def _below(figure: Figure, note: str, entries: Entries) -> Legend:
    def draw(names: list[str], columns: int) -> Legend:
        return figure.legend([entries[name] for name in names], names, title=note, ncols=columns,
                             loc="outside lower center")  # fmt: skip

    return _in_columns(draw, list(entries), figure.get_figwidth())


def _in_columns(draw: Callable[[list[str], int], Legend], names: list[str], room: float) -> Legend:
    """Draw a legend in the most columns for which there is room, all rows as full as the others."""
    columns = max(len(names), 1)
    while True:
        rows = max(-(-len(names) // columns), 1)
        columns = max(-(-len(names) // rows), 1)
        drawn = draw(_by_rows(names, columns), columns)
        if columns == 1 or _inches(drawn)[0] <= room:
            return drawn
        drawn.remove()
        columns -= 1


def _beside(figure: Figure, note: str, entries: Entries) -> Legend:
    return figure.legend(list(entries.values()), list(entries), title=wrapped(note, BESIDE),
                         loc="outside right upper", alignment="left")  # fmt: skip


def _by_rows(names: list[str], columns: int) -> list[str]:
    """Order names so that they read row by row where a legend fills column by column."""
    return [name for column in range(columns) for name in names[column::columns]]


def _inches(drawn: Legend) -> tuple[float, float]:
    """Return width and height of a legend."""
    figure = drawn.get_figure(root=True)
    assert figure is not None
    box = drawn.get_window_extent(figure.canvas.get_renderer())  # pyright: ignore
    return round(box.width / figure.dpi, 2), round(box.height / figure.dpi, 2)


def wrapped(text: str, width: int) -> str:
    """Break a text into lines, but no formula."""
    whole = re.sub(r"\$[^$]*\$", lambda formula: formula.group().replace(" ", "\0"), text)
    return textwrap.fill(whole, width).replace("\0", " ")
