"""How many replicates a simulation takes: so many, or as many as a precision needs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer, real

_LARGEST_GROWTH = 8
"""A precision is approached in rounds: early error bars are too rough to trust further ahead."""


@dataclass(frozen=True)
class Precision:
    """As many replicates as it takes until every std_error/mse is small enough.

    Args:
        relative: the largest std_error/mse to accept, positive.
        max_replications: replicates after which to stop in any case, at least 2; `std_error` then
            tells how precise the numbers are. None knows no such end.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Grpo, Precision, SoftmaxBandit, gradient_mse
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]]).at([0, 0])
        >>> precision, rng = Precision(0.05), np.random.default_rng(0)
        >>> table = gradient_mse(coin, [Grpo()], [2, 4], 8, replications=precision, rng=rng)
        >>> bool((table.std_error <= 0.05 * table.mse).all())
        True
    """

    relative: float
    max_replications: int | None = None

    def __post_init__(self) -> None:
        """Check both numbers."""
        real("relative", self.relative, above=0.0)
        if self.max_replications is not None:
            integer("max_replications", self.max_replications, at_least=2)

    def next_count(self, measured: "Measured") -> int | None:
        """Return with how many replicates to look again; None if those that are there will do.

        Relative errors fall like one over the root of the number of replicates.
        """
        spread = measured.std_error
        relative = float(np.max(spread / np.where(spread > 0, measured.mean, 1.0)))
        if relative <= self.relative or measured.count >= (self.max_replications or sys.maxsize):
            return None
        growth = min(1.05 * (relative / self.relative) ** 2, _LARGEST_GROWTH)
        return int(np.ceil(growth * measured.count))


class Measured(Protocol):
    """Statistics of `count` replicates: a mean and its standard error in each column."""

    @property
    def count(self) -> int:
        """Replicates."""
        ...

    @property
    def mean(self) -> Array:
        """Mean squared errors."""
        ...

    @property
    def std_error(self) -> Array:
        """Their standard errors."""
        ...


_Found = TypeVar("_Found", bound=Measured)


def require_replications(replications: object) -> None:
    """Raise ValueError unless it is a number of replicates, at least 2, or a `Precision`."""
    if isinstance(replications, Precision):
        return
    try:
        integer("replications", replications, at_least=2)
    except ValueError as error:
        raise ValueError(str(error).replace(", got", " or a Precision, got")) from None


def replicate(
    replications: int | Precision,
    first_round: int,
    nothing: _Found,
    extend: Callable[[_Found, int, int], _Found],
) -> _Found:
    """Take as many replicates as asked, round after round where a precision is.

    Args:
        replications: their number, or the precision to reach.
        first_round: replicates before the first look at the precision.
        nothing: the statistics of no replicate.
        extend: called with (measured, wanted, most), adds replicates to those measured until there
            are at least `wanted`, in whole batches but for a last one that ends at `most`.
    """
    if not isinstance(replications, Precision):
        return extend(nothing, replications, replications)
    most = replications.max_replications or sys.maxsize
    measured, wanted = nothing, min(first_round, most)
    while wanted is not None:
        measured = extend(measured, min(wanted, most), most)
        wanted = replications.next_count(measured)
    return measured
