"""The planner's own table: how often its intervals cover."""

from collections.abc import Iterator

import pandas as pd

from experiments.ledger.documents import markdown
from experiments.running.reading import plain

_NOISE = {"prompt": "c₁", "oracle": "c₂", "residual": "c₃", "optimal": "G*"}
_PLANS = {"surely": "for certain", "possibly": "perhaps"}


def coverage_tables(data: pd.DataFrame) -> str:
    """Return the coverages of `experiments.planning.noise_coverage`, one row a cell.

    Args:
        data: columns as the experiment writes them.
    """
    noise = [[*where, *_shares(row, _NOISE)] for where, row in _cells(data)]
    plans = [
        [*where, *_shares(row, _PLANS),
         f"{row['low']:.3g} to {row['high']:.3g}".replace("inf", "∞"),
         f"{row['lower_bounds']:.0%}"]
        for where, row in _cells(data)
    ]  # fmt: skip
    parts = [
        "Coverage of the 95 % intervals, per cent of samples of B prompts with M outputs each:",
        markdown(["population", "M, B", *_NOISE.values()], noise),
        "*For certain*: per cent of plans that call no group size near-optimal for certain that is "
        "not; *perhaps*: that call all so perhaps that are. Beside them the median interval of G*, "
        "and how many intervals have no upper end.",
        markdown(["population", "M, B", *_PLANS.values(), "interval of G*", "no upper end"], plans),
    ]
    return "\n\n".join(parts)


def _cells(data: pd.DataFrame) -> Iterator[tuple[list[str], dict]]:
    """Yield each cell with what names it: population with its G*, and M, B."""
    for task, cells in data.groupby("task", sort=False):
        for row in cells.sort_values(["num_outputs", "num_prompts"]).to_dict(orient="records"):
            name, optimal = plain(str(task)), f"G* = {row['optimal']:.3g}"
            population = name if name.endswith(optimal) else f"{name}, {optimal}"
            yield [population, f"{row['num_outputs']}, {row['num_prompts']}"], row


def _shares(row: dict, names: dict[str, str]) -> list[str]:
    shares = [row[f"{name}_coverage"] for name in names]
    return ["–" if pd.isna(share) else f"{100 * share:.1f}" for share in shares]
