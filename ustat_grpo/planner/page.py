"""A plan as one HTML file that needs no network."""

import html
import json
import math
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from ustat_grpo.files import write_whole
from ustat_grpo.planner.curve import LARGEST_GROUP_SIZE, TOLERANCE
from ustat_grpo.planner.near_optimal import RIVALS
from ustat_grpo.planner.table import conditions

if TYPE_CHECKING:
    from ustat_grpo.planner.plan import Plan

_DATA, _TEXT, _DOUBTS = "/*DATA*/null", "<!--PLAN-->", "<!--DOUBTS-->"


def write_page(plan: "Plan", path: str | PathLike[str]) -> None:
    """Write the page of a plan, whole or not at all.

    Args:
        plan: to show.
        path: of the file.

    Raises:
        OSError: if the file cannot be written.
    """
    template = files("ustat_grpo.planner").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(page_data(plan), allow_nan=False).replace("<", "\\u003c")
    doubts = "\n".join(
        f'<p class="doubt" role="alert">WARNING: {html.escape(doubt)}</p>' for doubt in plan.doubts
    )
    page = template.replace(_DATA, data).replace(_TEXT, html.escape(str(plan)))
    page = page.replace(_DOUBTS, doubts)
    write_whole(Path(path), lambda partial: partial.write_text(page, encoding="utf-8"))


def page_data(plan: "Plan") -> dict[str, Any]:
    """Return what the page computes from, with None for infinity."""
    low, high = plan.noise_range
    return {
        "prompt": plan.noise.prompt,
        "prompt_range": [high.prompt, low.prompt],
        "oracle": plan.noise.oracle,
        "residual": plan.noise.residual,
        "contributions": _moments(plan),
        "optimal": [size if math.isfinite(size) else None for size in plan.optimal],
        "level": plan.level,
        "budget": plan.budget,
        "min_batch_size": plan.min_batch_size,
        "cost": {"per_prompt": plan.cost.per_prompt, "per_output": plan.cost.per_output},
        "tolerance": TOLERANCE,
        "largest": LARGEST_GROUP_SIZE,
        "dead_groups": {
            str(row.group_size): {"probability": row.dead_groups, "guessed": row.is_extrapolated}
            for row in plan.predictions
            if row.dead_groups is not None
        },
        "conditions": conditions(plan),
    }


def _moments(plan: "Plan") -> dict[str, Any] | None:
    """Return all that intervals of weighted sums of c₁, c₂, c₃ depend on; None of known noise.

    Mean, variance and third moment of any such sum of contributions follow from the moments of the
    three, so that the page finds the near-optimal sets of any budget and cost.
    """
    if plan.contributions is None or plan.level is None:
        return None
    mean, count = plan.contributions.mean(axis=0), len(plan.contributions)
    centred = plan.contributions - mean
    second = np.einsum("bi,bj->ij", centred, centred) / count
    third = np.einsum("bi,bj,bk->ijk", centred, centred, centred) / count
    return {
        "count": count,
        "mean": mean.tolist(),
        "second": second.tolist(),
        "third": third.tolist(),
        "critical": float(stdtrit(count - 1, (1 + plan.level) / 2)),
        "rivals": RIVALS,
    }
