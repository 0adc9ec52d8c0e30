"""What a reader stumbles over in a figure, as far as a machine can see it."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from figures.legends import MOST

SMALLEST = 7.0
"""Points of the smallest letters."""
PIXEL = 1.0
INSIDE = 0.25
"""Of its panel, the most that a legend inside of it may cover."""
NOTHING, WHITE = "#00000000", "#ffffffff"


def stumbles(figure: Figure) -> list[str]:
    """Return what is wrong with a figure that has been drawn, in words."""
    found = [wrong for axes in figure.axes for wrong in (*_beyond(axes), *_alike(axes))]
    found += [wrong for axes in figure.axes for wrong in _crowded(axes)]
    found += list(_legends(figure))
    small = {text.get_text() for text in figure.findobj(Text) if _tiny(text)}
    return found + [f"letters too small: {text}" for text in sorted(small)]


def _legends(figure: Figure) -> Iterator[str]:
    """Yield legends of too many entries, over data, larger than the panels, or cut off."""
    panels = [axes.bbox for axes in figure.axes]
    room = Bbox.union(panels)
    for owner in (None, *figure.axes):
        legends = figure.legends if owner is None else [owner.get_legend()]
        for legend in (each for each in legends if each is not None):
            yield from _legend(legend, owner, panels, room)


def _legend(legend: Legend, owner: Axes | None, panels: list, room: Bbox) -> Iterator[str]:
    name, box = str([text.get_text() for text in legend.get_texts()]), legend.get_window_extent()
    if len(legend.get_texts()) > MOST:
        yield f"legend of more than {MOST} entries: {name}"
    if box.height > room.height or box.width * box.height > room.width * room.height:
        yield f"legend larger than the panels: {name}"
    root = legend.get_figure(root=True)
    assert root is not None
    if box.x0 < -PIXEL or box.y0 < -PIXEL or box.x1 > root.bbox.x1 + PIXEL:
        yield f"legend cut off: {name}"
    for panel in panels:
        inside = owner is not None and panel is owner.bbox and _area(box) < INSIDE * _area(panel)
        if _overlap(box, panel) and not inside:
            yield f"legend over a panel: {name}"


def _beyond(axes: Axes) -> Iterator[str]:
    """Yield series with markers outside of the panel that no arrow at its edge stands for."""
    x_low, x_high = sorted(axes.get_xlim())
    y_low, y_high = sorted(axes.get_ylim())
    arrows: dict[object, set[float]] = defaultdict(set)
    for line in axes.lines:
        arrows[line.get_marker()] |= set(np.asarray(line.get_xdata(), dtype=float).tolist())
    for line in axes.lines:
        if line.get_marker() in ("None", "", None) or line.get_transform() != axes.transData:
            continue
        for x, y in np.asarray(line.get_xydata(), dtype=float):
            above = y > y_high and x not in arrows[CARETUP]
            below = y < y_low and x not in arrows[CARETDOWN]
            if above or below or x < x_low or x > x_high:
                yield f"point outside of the panel: {line.get_label()} at {x:g}, {y:g}"


def _alike(axes: Axes) -> Iterator[str]:
    """Yield series of other names that look the same."""
    names: dict[tuple, set[str]] = defaultdict(set)
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
        if isinstance(line, Line2D):
            names[look(line)].add(name)
    for several in names.values():
        if len(several) > 1:
            yield f"one look of several series: {sorted(several)}"


def look(line: Line2D) -> tuple:
    """Return colour, marker, its filling, and dashes of a series."""
    dashes = line._unscaled_dash_pattern  # pyright: ignore  (no public name tells dashes apart)
    face = to_hex(line.get_markerfacecolor(), keep_alpha=True)
    hollow = line.get_fillstyle() == "none" or face in (NOTHING, WHITE)
    return to_hex(line.get_color()), line.get_marker(), hollow, line.get_linestyle(), str(dashes)


def _crowded(axes: Axes) -> Iterator[str]:
    """Yield axes whose tick labels lie over each other."""
    for axis in (axes.xaxis, axes.yaxis):
        shown = [text for text in axis.get_ticklabels() if text.get_visible() and text.get_text()]
        low, high = sorted(axis.get_view_interval())
        boxes = [
            text.get_window_extent()
            for text, place in zip(shown, axis.get_ticklocs(), strict=False)
            if low <= place <= high
        ]
        for one, other in pairwise(boxes):
            if _overlap(one, other):
                yield f"tick labels over each other: {[text.get_text() for text in shown]}"
                break


def _tiny(text: Text) -> bool:
    return bool(text.get_text()) and text.get_visible() and text.get_fontsize() < SMALLEST


def _area(box) -> float:
    return box.width * box.height


def _overlap(one, other) -> bool:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(width, height) > PIXEL
