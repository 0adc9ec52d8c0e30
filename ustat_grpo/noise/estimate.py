"""Noise components of a sample with their intervals."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.arrays import Array, exponent_of
from ustat_grpo.inputs.checks import finite, real
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise.components import (
    left_out_components,
    noise_components,
    prompt_statistics,
)
from ustat_grpo.noise.doubts import doubts_of_blocks, doubts_of_outputs
from ustat_grpo.noise.groups import require_signal
from ustat_grpo.noise.interval import (
    GroupSizeEstimate,
    Interval,
    mean_interval,
    optimal_group_size,
)
from ustat_grpo.noise.sample import OutputSample
from ustat_grpo.noise.signs import SignSample


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """Unbiased estimates of c₁, c₂, c₃ and how well they are known.

    Args:
        contributions: of K prompts, or blocks of them, to c₁, c₂, c₃, shape (K, 3): all but
            independent, and their mean is the estimate.
        level: coverage of every interval, each on its own, as far as the prompts of the sample can
            tell.
        doubts: sentences on what is so improbable that the measurements must be doubted.

    Raises:
        ValueError: if contributions have another shape, or are not finite, or the level is not
            between 0 and 1.

    Note:
        A kind of prompt rarer than about 3/B is missing from 5 of 100 samples of B prompts, and
        then from every interval. Where score norms have heavy tails, intervals of c₁, c₂, c₃ cover
        less than `level`; that of G* suffers less.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.noise import NoiseEstimate
        >>> noise = NoiseEstimate(contributions=np.array([[0, 2, 9], [2, 2, 9]] * 4), level=0.95)
        >>> noise.prompt, noise.oracle, noise.residual  # means of the columns
        (1.0, 2.0, 9.0)
        >>> noise.optimal.value, noise.optimal.is_lower_bound  # 1 + √(9/1), with both ends known
        (4.0, False)
    """

    contributions: Float[Array, "K 3"]
    level: float
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take lists for arrays, and raise if there are not three columns of at least 2 rows."""
        object.__setattr__(
            self, "contributions", finite("contributions", self.contributions, ndim=2)
        )
        real("level", self.level, above=0.0, below=1.0)
        count, width = self.contributions.shape
        if width != 3 or count < 2:
            raise ValueError(
                f"contributions must have shape (K, 3) with K of at least 2, got {(count, width)}"
            )

    @cached_property
    def _means(self) -> list[float]:
        return self.contributions.mean(axis=0).tolist()

    @property
    def prompt(self) -> float:
        """c₁, noise of the prompt draw; unbiased, hence sometimes negative."""
        return self._means[0]

    @property
    def oracle(self) -> float:
        """c₂, noise of an output under the oracle baseline."""
        return self._means[1]

    @property
    def residual(self) -> float:
        """c₃, what the group mean adds for not knowing V."""
        return self._means[2]

    @cached_property
    def covariance(self) -> Float[Array, "3 3"]:
        """Covariance of the errors of c₁, c₂, c₃, shape (3, 3); infinite or zero past doubles."""
        scaled, exponent = self._covariance
        with np.errstate(over="ignore"):
            return np.ldexp(scaled, 2 * exponent)

    @cached_property
    def _covariance(self) -> tuple[Float[Array, "3 3"], int]:
        """The covariance in units of 2²ᵉ, and e."""
        exponent = exponent_of(self.contributions)
        own = np.ldexp(self.contributions, -exponent)
        return np.cov(own.T) / len(own), exponent

    @property
    def std_errors(self) -> Float[Array, " 3"]:
        """Standard errors of c₁, c₂, c₃."""
        scaled, exponent = self._covariance
        return np.ldexp(np.sqrt(scaled.diagonal()), exponent)

    @cached_property
    def intervals(self) -> tuple[Interval, Interval, Interval]:
        """Intervals for c₁, c₂, c₃; that of c₁ may reach below zero."""
        prompt, oracle, residual = (
            mean_interval(column, self.level) for column in self.contributions.T
        )
        return prompt, oracle, residual

    @cached_property
    def optimal(self) -> GroupSizeEstimate:
        """G* = 1 + √(c₃/c₁) and its interval, without an upper end if c₁ may be zero."""
        return optimal_group_size(self.contributions, self.level)

    def components(self, optimal: float | None = None) -> NoiseComponents:
        """Return c₁, c₂, c₃ as the laws take them, with the best group size that is asked for.

        c₁ = c₃/(G* − 1)²: the component that is known least follows from the other two. At the
        ends of the interval of G* this gives those of everything that depends on c₁, such as the
        near-optimal set.

        Args:
            optimal: G*, at least 1 + √2 or infinite; the point estimate if None.

        Raises:
            ValueError: if c₃ is not positive, or G* is not above 1.
        """
        if self.residual <= 0:
            raise ValueError(f"residual noise must be positive, got {self.residual:g}")
        size = self.optimal.value if optimal is None else optimal
        if not size > 1:
            raise ValueError(f"optimal must be above 1, got {optimal!r}")
        prompt = self.residual / (size - 1) ** 2
        return NoiseComponents(prompt, max(self.oracle, 0.0), self.residual)


def estimate_noise(sample: OutputSample | SignSample, *, level: float = 0.95) -> NoiseEstimate:
    """Return c₁ = E‖g(X)−g‖², c₂ = E[τ]−E‖g(X)‖², c₃ = E[sσ²]+E‖g(X)‖², each unbiased.

    What a prompt contributes is its pseudo-value, B times the estimate less B − 1 times the
    estimate without the prompt. Where norms of weighted sums are all there is, it is the estimate
    from a block of prompts of its own.

    Args:
        sample: outputs to prompts drawn i.i.d.
        level: coverage of the intervals, between 0 and 1.

    Raises:
        ValueError: if `level` is not between 0 and 1, there are fewer than 8 prompts, the rewards
            of every group are equal, all score norms are zero, or numbers cannot belong together
            (see `ustat_grpo.noise.possible`). What is improbable is said in `doubts`.

    Reference: Arvesen, Jackknifing U-statistics, Ann. Math. Statist. 40 (1969).

    Examples:
        >>> from ustat_grpo import OutputSample, estimate_noise
        >>> scores = [[[1], [-1], [0]], [[1], [1], [-2]]] * 4  # 8 prompts, 3 outputs each, d = 1
        >>> sample = OutputSample.from_scores(scores, rewards=[[1, 0, 0]] * 8)
        >>> noise = estimate_noise(sample)
        >>> round(noise.prompt, 3), round(noise.oracle, 3), round(noise.residual, 3)
        (-0.183, 0.267, 0.567)
        >>> noise.optimal.is_lower_bound  # ĝ is ½ at every prompt: c₁ cannot be told from 0
        True
    """
    real("level", level, above=0.0, below=1.0)
    if isinstance(sample, SignSample):
        blocks = sample.components
        if not blocks.any():
            raise ValueError("components must not all be zero: no signal, no plan")
        return NoiseEstimate(blocks, level, doubts_of_blocks(_in_own_unit(blocks)))
    if not sample.score_norms.any():
        raise ValueError("score_norms must not all be zero: no signal, no plan")
    require_signal(sample.groups)
    measured = sample.possible()
    norms, products = measured.gradient_norms, measured.gradient_products
    statistics = prompt_statistics(measured.groups, measured.score_norms, norms)
    arguments = statistics, norms, products, sample.partners
    whole, left_out = noise_components(*arguments), left_out_components(*arguments)
    own = whole + (len(left_out) - 1) * (whole - left_out)
    doubts = doubts_of_outputs(measured, statistics, own)
    return NoiseEstimate(np.ldexp(own, measured.exponent), level, doubts)


def _in_own_unit(contributions: Float[Array, "K 3"]) -> Float[Array, "K 3"]:
    return np.ldexp(contributions, -exponent_of(contributions))
