"""Which group size is best, and how sure are we? Comparisons of runs that share random numbers.

Run r meets the same random numbers at every group size, so differences are taken run by run: what
the sizes have in common cancels. Two questions are asked of an array of gaps, one row a run and
one column a group size: what each size loses over a reference, and which sizes may be the best.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer, real

LEVEL = 0.95


class Excess(NamedTuple):
    """Mean of paired differences, and its standard error; both of shape (m,)."""

    mean: Float[Array, " m"]
    std_error: Float[Array, " m"]


def paired_excess(gaps: ArrayLike, reference_column: int) -> Excess:
    """Return what each column loses over a reference: the mean of Δ_rj − Δ_r,ref over the runs r.

    Both numbers are 0 where all differences are 0, as at the reference itself.

    Args:
        gaps: Δ, one row a run and one column a group size, shape (R, m), R ≥ 2.
        reference_column: of the size to compare with.

    Raises:
        ValueError: if the gaps are not finite, of another shape, or have no such column.

    Note:
        If the reference is the column of least mean in the same gaps, every excess is too large in
        expectation, by E[Δ̄ of the size that is truly best] − E[min Δ̄].
    """
    table = _table(gaps)
    column = integer("reference_column", reference_column, at_least=0)
    if column >= table.shape[1]:
        raise ValueError(f"reference_column must be below {table.shape[1]}, got {column}")
    differences = table - table[:, [column]]
    spread = differences.std(axis=0, ddof=1)
    return Excess(differences.mean(axis=0), spread / np.sqrt(len(table)))


def confidence_set(gaps: ArrayLike, sizes: Sequence[int], level: float = LEVEL) -> list[int]:
    """Return the group sizes that are not significantly worse than any other.

    Size i is left out if D̄_ij > t·se(D̄_ij) for some j, where D_rij = Δ_ri − Δ_rj and t is the
    upper (1−level)/(m−1) quantile of Student's t with R−1 degrees of freedom: one-sided paired
    tests, by Bonferroni over the other sizes. The best size b leaves the set only if one of its
    m − 1 true hypotheses E D_bj ≤ 0 is rejected, so

        P(b in the set) ≥ level,

    for normal differences at any R, whatever their variances and correlations, and in the limit of
    many runs for all others. The size of least mean is always in the set. A difference that is the
    same in all runs is significant unless it is 0.

    Args:
        gaps: Δ, one row a run and one column a group size, shape (R, m), R ≥ 2.
        sizes: of the m columns.
        level: of confidence, above ½.

    Raises:
        ValueError: if the gaps are not finite, the shapes disagree or the level is out of range.

    Note:
        This is the subset that multiple comparisons with the best give. Hsu's own has Dunnett's
        quantile for independent samples of one variance; paired runs have neither, and Bonferroni
        needs neither.

    Reference:
        J. C. Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the
        best", Annals of Statistics 12 (1984) 1136–1144.
    """
    table = _table(gaps)
    runs, count = table.shape
    if len(sizes) != count:
        raise ValueError(f"sizes must name each of the {count} columns, got {list(sizes)}")
    others = max(count - 1, 1)
    critical = stats.t.isf((1 - real("level", level, above=0.5, below=1.0)) / others, runs - 1)
    return [
        size for column, size in enumerate(sizes) if not _is_beaten(table, column, float(critical))
    ]


def compare(gaps: ArrayLike, sizes: Sequence[int], level: float = LEVEL) -> pd.DataFrame:
    """Return one row a group size: its gap, its excess over the least mean gap, is it in the set?

    Args:
        gaps: Δ, one row a run and one column a group size, shape (R, m), R ≥ 2.
        sizes: of the m columns; the index of the table.
        level: of confidence.
    """
    table = _table(gaps)
    chosen = confidence_set(table, sizes, level)
    means = table.mean(axis=0)
    excess = paired_excess(table, int(means.argmin()))
    columns = {
        "gap": means,
        "std_error": table.std(axis=0, ddof=1) / np.sqrt(len(table)),
        "excess": excess.mean,
        "excess_std_error": excess.std_error,
        "in_confidence_set": [size in chosen for size in sizes],
    }
    return pd.DataFrame(columns, index=pd.Index(sizes, name="group_size"))


def _is_beaten(table: Array, column: int, critical: float) -> bool:
    """Tell whether some other column is significantly below this one; nothing is divided by."""
    others = paired_excess(table, column)
    return bool((-others.mean > critical * others.std_error).any())


def _table(gaps: ArrayLike) -> Array:
    table = finite("gaps", gaps, ndim=2)
    if len(table) < 2:
        raise ValueError(f"gaps must hold at least 2 runs, got {len(table)}")
    return table
