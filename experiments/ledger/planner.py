"""The ledger's section of the planner."""

import pandas as pd

from experiments.ledger.documents import markdown
from experiments.running.reading import plain

_COVERED = {
    "prompt": "c₁", "oracle": "c₂", "residual": "c₃", "optimal": "G*",
    "surely": "for certain", "possibly": "perhaps",
}  # fmt: skip


def section(rows: str, coverage: pd.DataFrame) -> str:
    """Return the section, given its rows as a table."""
    parts = [
        "c₁, c₂, c₃ are measured on a batch of B prompts with M outputs each, and a group size is "
        "planned for a budget. Do the intervals cover, and does following the plan train better "
        "than a fixed G? What these are: `docs/planner.md`.",
        rows,
        "Coverage of the 95 % intervals, per cent of samples. *For certain*: plans that call no "
        "group size near-optimal for certain that is not; *perhaps*: plans that call all so "
        "perhaps that are.",
        coverage_table(coverage),
    ]
    return "\n\n".join(parts)


def coverage_table(data: pd.DataFrame) -> str:
    """Return the coverages of `experiments.planning.noise_coverage` in per cent, one row a cell."""
    headings = ["population", "G*", "M", "B", *_COVERED.values(), "median interval of G*",
                "without upper end"]  # fmt: skip
    rows = []
    for task, cells in data.groupby("task", sort=False):
        for row in cells.sort_values(["num_outputs", "num_prompts"]).to_dict(orient="records"):
            shares = [row[f"{name}_coverage"] for name in _COVERED]
            rows.append([
                plain(str(task)),
                f"{row['optimal']:.3g}",
                str(row["num_outputs"]),
                str(row["num_prompts"]),
                *("–" if pd.isna(share) else f"{100 * share:.1f}" for share in shares),
                f"{row['low']:.3g} to {row['high']:.3g}".replace("inf", "∞"),
                f"{row['lower_bounds']:.0%}",
            ])  # fmt: skip
    return markdown(headings, rows)
