"""What prompt noise costs when a finite set of prompts is gone through in epochs.

An epoch is a shuffle of all P prompts, taken up B at a time. Two prompts of one epoch differ, so
their gradients are negatively correlated: Cov(g(X), g(X′)) = −Cov g/(P−1), within a minibatch and
between minibatches. Once an epoch is over, all its prompt noise has cancelled but for what θ made
of the order. This law follows `laws.path`, with the dependence on the epoch's past carried along:

    u_x ← (I + ηH)u_x + (η/B)·m·(g(x) − g),   what θ keeps of prompt x, were it in all m past slots,
    Cov(θ, slot to come) = −E_x[u_x (g(x) − g)ᵀ]/(P−1),   drift −E_x[H(x) u_x]/(P−1),

u being zero when an epoch begins. To first order in the noise, as there; whether that is enough at
a (B, G) of i.i.d. prompts says `laws.spread.second_order`, and epochs are less noisy than those.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, increasing, integer
from ustat_grpo.laws.path import LocalExpansion


class PromptExpansion(LocalExpansion, Protocol):
    """An expansion that knows each of P equally likely prompts, all θ in one block (M = 1)."""

    @property
    def prompt_gradients(self) -> Float[Array, "P d"]:
        """g(x), shape (P, d)."""
        ...

    def mean_hessian_product(self, vectors: Float[Array, "P d"]) -> Float[Array, " d"]:
        """E_x[H(x) u_x], shape (d,)."""
        ...


def prompt_effect(
    expand: Callable[[Array], PromptExpansion],
    *,
    theta0: ArrayLike,
    rates: ArrayLike,
    checkpoints: Sequence[int],
    batch_size: int,
) -> list[float]:
    """Return what prompt noise adds to E Δ_n, to first order; i.i.d. prompts add a₁/B.

    Args:
        expand: gives the expansion of the problem at any θ.
        theta0: shape (d,).
        rates: η₁, …, η_n, shape (n,).
        checkpoints: increasing iterations, at most n.
        batch_size: B; may exceed P.

    Raises:
        ValueError: if prompts are not equally likely or share no parameters (one-hot features), or
            the checkpoints are not increasing or beyond the rates.

    Examples:
        >>> from ustat_grpo import TugOfWar, laws
        >>> from ustat_grpo.bandits import expand
        >>> task = TugOfWar()  # P = 2 prompts
        >>> for B in (1, 2):  # a batch of all prompts has no prompt noise
        ...     (effect,) = laws.epochs.prompt_effect(
        ...         expand(task.at),
        ...         theta0=task.theta(0.0),
        ...         rates=[4.0] * 7,
        ...         checkpoints=[7],
        ...         batch_size=B,
        ...     )
        ...     print(B, round(abs(effect), 4))
        1 0.0611
        2 0.0
    """
    steps, theta = finite("rates", rates, ndim=1), finite("theta0", theta0, ndim=1)
    points = increasing("checkpoints", checkpoints, at_most=len(steps))
    _require_shared_parameters(expand(theta))
    state = _Epochs(len(theta), integer("batch_size", batch_size))
    effects = []
    for iteration, rate in enumerate(steps[: points[-1]], start=1):
        here = expand(theta)
        state.advance(here, rate)
        theta = theta + rate * here.gradient[0]
        if iteration == points[len(effects)]:
            there = expand(theta)
            slope = float(there.gradient[0] @ state.shift)
            effects.append(-slope - float(np.sum(there.hessian[0] * state.covariance)) / 2)
    return effects


def _require_shared_parameters(here: PromptExpansion) -> None:
    blocks = len(here.hessian)
    if blocks > 1:
        raise ValueError(f"expand must have all parameters in one block, got {blocks} blocks")
    slant = np.abs(here.prompt_gradients.mean(axis=0) - here.gradient[0]).max()
    if slant > 1e-9 * np.abs(here.prompt_gradients).max():
        raise ValueError(
            "expand must be of equally likely prompts, got a mean of prompt gradients off by "
            f"{slant:.3g}"
        )


class _Epochs:
    """Covariance C and shift δ of θ, and the trace u of the prompts of the running epoch."""

    def __init__(self, dimension: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self.covariance = np.zeros((dimension, dimension))
        self.shift = np.zeros(dimension)
        self.trace: Array | None = None  # (P, d)
        self.spent = 0

    def advance(self, here: PromptExpansion, rate: float) -> None:
        """One iteration."""
        deviations = here.prompt_gradients - here.gradient[0]
        num_prompts = len(deviations)
        trace = np.zeros_like(deviations) if self.trace is None else self.trace
        slots = self._slots(num_prompts)
        others = max(num_prompts - 1, 1)  # a single prompt deviates from nothing
        pairs = sum(number * (number - 1) for number in slots) / others
        own = (self.batch_size - pairs) / self.batch_size**2
        past = -slots[0] / self.batch_size / others
        crossed = past * trace.T @ deviations / num_prompts
        drift = here.drift(self.covariance[None])[0] + past * here.mean_hessian_product(trace)
        step = np.eye(len(self.shift)) + rate * here.hessian[0]
        noise = own * deviations.T @ deviations / num_prompts
        turned = rate * step @ crossed
        self.covariance = step @ self.covariance @ step + turned + turned.T + rate**2 * noise
        self.shift = step @ self.shift + rate * drift
        if len(slots) > 1:
            trace = np.zeros_like(trace)
        self.trace = trace @ step + rate / self.batch_size * slots[-1] * deviations

    def _slots(self, num_prompts: int) -> list[int]:
        """Slots of this minibatch in the running epoch, then in each epoch that begins in it."""
        slots = [min(num_prompts - self.spent, self.batch_size)]
        while sum(slots) < self.batch_size:
            slots.append(min(num_prompts, self.batch_size - sum(slots)))
        self.spent = slots[-1] + (self.spent if len(slots) == 1 else 0)
        return slots
