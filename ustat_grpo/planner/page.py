"""A plan as one HTML file that needs no network."""

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from ustat_grpo.inputs.files import write_whole

_DATA, _TEXT, _DOUBTS = "/*DATA*/null", "<!--PLAN-->", "<!--DOUBTS-->"


def write_page(
    data: dict[str, Any], text: str, doubts: Sequence[str], path: str | PathLike[str]
) -> None:
    """Write the page of a plan, whole or not at all.

    Args:
        data: what the page computes from.
        text: the plan in words.
        doubts: warnings that stand before all.
        path: of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    template = files("ustat_grpo.planner").joinpath("page.html").read_text(encoding="utf-8")
    computed = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    warned = "\n".join(
        f'<p class="doubt" role="alert">WARNING: {html.escape(doubt)}</p>' for doubt in doubts
    )
    page = template.replace(_DATA, computed).replace(_TEXT, html.escape(text))
    page = page.replace(_DOUBTS, warned)
    write_whole(Path(path), lambda partial: partial.write_text(page, encoding="utf-8"))
