"""The table of single runs: one row a run and checkpoint, whatever kind of task was trained on.

Run r of every estimator and group size meets the same random numbers, so runs are compared with
those of their number.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array

COLUMNS = ["task", "estimator", "group_size", "run", "iteration", "objective"]
"""Panel, estimator, G, r, n, and J(θ_n): exact, or of fresh outputs."""


def runs_table(
    objective: Float[Array, "R C"],
    iterations: Sequence[int],
    *,
    task: str,
    estimator: str,
    group_size: int,
) -> pd.DataFrame:
    """Return the objectives of runs at checkpoints as rows, run by run."""
    runs, points = objective.shape
    return pd.DataFrame(
        {
            "task": task,
            "estimator": estimator,
            "group_size": group_size,
            "run": np.repeat(np.arange(runs), points),
            "iteration": np.tile(np.asarray(iterations), runs),
            "objective": objective.ravel(),
        }
    )


def by_iteration(rows: pd.DataFrame) -> Float[Array, "R C"]:
    """Return the objectives of one estimator and group size: one row a run."""
    return _wide(rows, "iteration", np.unique(rows["iteration"]))


def by_group_size(rows: pd.DataFrame, sizes: Sequence[int]) -> Float[Array, "R m"]:
    """Return the objectives of one estimator at one iteration: one row a run, a column a size."""
    return _wide(rows, "group_size", sizes)


def _wide(rows: pd.DataFrame, column: str, order: ArrayLike) -> Array:
    """Row by row in memory: on another layout NumPy adds in another order, and rounds otherwise."""
    table = rows.pivot(index="run", columns=column, values="objective")
    return np.ascontiguousarray(table.reindex(columns=np.asarray(order)).to_numpy())
