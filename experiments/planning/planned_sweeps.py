"""Sweeps over the group size against which a plan is judged: run here, or read from a reference.

Choosing G by chance, with a probability for every size, loses Σ_G w_G Δ_G over the best size. A
fixed G is the case of one weight, so rules are compared by the contrasts of their weights.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from experiments.group_size.confidence import compare
from experiments.group_size.config import GroupSize
from experiments.group_size.group_size import measured_gaps
from experiments.group_size.resolution import by_seed
from experiments.tasks.bandits import Start
from ustat_grpo.inputs.arrays import Array


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every group size loses over the best, at one budget and checkpoint.

    Args:
        budget: N.
        iteration: n.
        optimizer: of the runs.
        runs: of each group size.
        sizes: G, shape (m,), increasing.
        excess: of the mean loss over the least, shape (m,).
        std_errors: of the excess, paired, shape (m,).
        may_be_best: whether a size is in the 95 % confidence set, shape (m,).
        losses: of every run, shape (R, m); None if only what stands above is known.
    """

    budget: int
    iteration: int
    optimizer: str
    runs: int
    sizes: list[int]
    excess: Float[Array, " m"]
    std_errors: Float[Array, " m"]
    may_be_best: NDArray[np.bool_]
    losses: Float[Array, "R m"] | None = None

    @property
    def best(self) -> int:
        """The group size of least mean loss."""
        return self.sizes[int(self.excess.argmin())]

    @property
    def best_loss(self) -> float:
        """The least mean loss; NaN if losses are not known."""
        return np.nan if self.losses is None else float(self.losses.mean(axis=0).min())

    def std_error(self, contrast: Float[Array, " m"]) -> float:
        """Return the standard error of Σ_G w_G Δ̄_G for weights that add up to zero.

        Paired over runs; without their losses the upper bound Σ |w_G| s.e.(Δ̄_G − Δ̄_best), which
        holds whatever the correlations.
        """
        if self.losses is None:
            return float(np.abs(contrast) @ self.std_errors)
        return float((self.losses @ contrast).std(ddof=1) / self.runs**0.5)


def measured_sweeps(config: GroupSize, panel: str, start: Start) -> Iterator[Sweep]:
    """Run Algorithm 1 at every division of a budget, and yield each checkpoint."""
    gaps = measured_gaps(config, panel, start, "grpo")
    for point, iteration in enumerate(config.iterations):
        yield _of_runs(
            gaps[:, :, point], config.group_size, budget=config.budget, iteration=iteration
        )


def tabled_sweeps(path: Path, panel: str) -> Iterator[Sweep]:
    """Read GRPO's sweeps of one panel, budget by budget and checkpoint by checkpoint.

    Args:
        path: a table of `language_group_size`, or of `group_size` on sequential tasks.
        panel: the policy where runs begin.

    Raises:
        ValueError: if the file does not exist, is no such table or has no runs of the panel.
    """
    data = _table(path, panel)
    if "accuracy" in data:
        points = data.query("iteration > 0").groupby(
            ["optimizer", "budget", "iteration"], sort=False
        )
        for _, rows in points:
            first, accuracies = rows.iloc[0], by_seed(rows)
            yield _of_runs(
                1 - accuracies.to_numpy(),
                [int(size) for size in accuracies.columns],
                budget=int(first["budget"]),
                iteration=int(first["iteration"]),
                optimizer=str(first["optimizer"]),
            )
        return
    for _, rows in data.groupby(["budget", "iteration"], sort=False):
        rows = rows.sort_values("group_size")
        yield Sweep(
            budget=int(rows["budget"].iloc[0]),
            iteration=int(rows["iteration"].iloc[0]),
            optimizer="sgd",
            runs=int(rows["runs"].iloc[0]),
            sizes=rows["group_size"].to_list(),
            excess=rows["excess"].to_numpy(),
            std_errors=rows["excess_std_error"].to_numpy(),
            may_be_best=rows["in_confidence_set"].to_numpy(),
        )


def fingerprint(path: Path) -> str:
    """Return the beginning of a file's SHA-256.

    Raises:
        ValueError: if there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"sweep must be an existing table, got {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def _of_runs(
    losses: Array, sizes: list[int], *, budget: int, iteration: int, optimizer: str = "sgd"
) -> Sweep:
    table = compare(losses, sizes)
    return Sweep(
        budget=budget,
        iteration=iteration,
        optimizer=optimizer,
        runs=len(losses),
        sizes=list(sizes),
        excess=table["excess"].to_numpy(),
        std_errors=table["excess_std_error"].to_numpy(),
        may_be_best=table["in_confidence_set"].to_numpy(),
        losses=losses,
    )


_NEEDED = {"task", "estimator", "budget", "group_size", "iteration"}
_OF_LOSSES = ({"seed", "optimizer", "accuracy"}, {"runs", "excess", "excess_std_error",
                                                  "in_confidence_set"})  # fmt: skip


def _table(path: Path, panel: str) -> pd.DataFrame:
    data = pd.read_csv(path)
    columns = set(data)
    if not (columns >= _NEEDED and any(columns >= some for some in _OF_LOSSES)):
        raise ValueError(f"sweep must be a table of paired runs by group size, got {path}")
    rows = data.loc[(data["task"] == panel) & (data["estimator"] == "grpo")]
    if rows.empty:
        raise ValueError(f"sweep must hold GRPO's runs of {panel}, got none in {path}")
    return rows
