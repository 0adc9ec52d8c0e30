"""From gradients to directions of ascent: θ ← θ + η·direction.

The rate is not the optimizer's: stacked parameters of several runs step together, each run at its
own rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ustat_grpo.inputs.checks import real
from ustat_grpo.lm.scoring import Gradient


class Optimizer(Protocol):
    """Anything that turns gradients into directions, element by element."""

    def moments(self, parameters: Gradient) -> list[Gradient]:
        """Return what it remembers between steps, as it is before the first."""
        ...

    def directions(
        self, gradient: Gradient, parameters: Gradient, moments: Sequence[Gradient], iteration: int
    ) -> Gradient:
        """Return the directions of step 1, 2, …; updates the moments in place."""
        ...


@dataclass(frozen=True)
class Sgd:
    """The gradient itself, as in Algorithm 1 of arXiv 2603.01162."""

    def moments(self, parameters: Gradient) -> list[Gradient]:
        """Return nothing; see `Optimizer.moments`."""
        return []

    def directions(
        self, gradient: Gradient, parameters: Gradient, moments: Sequence[Gradient], iteration: int
    ) -> Gradient:
        """Return the gradient; see `Optimizer.directions`."""
        return gradient


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    m ← β₁m + (1−β₁)ĝ, v ← β₂v + (1−β₂)ĝ², direction m̂/(√v̂ + ε) − λθ, with m̂ = m/(1−β₁ⁱ) and
    v̂ = v/(1−β₂ⁱ) at step i.

    Args:
        beta1: β₁, how much of the mean gradient is kept.
        beta2: β₂, how much of the mean square is kept.
        epsilon: ε.
        weight_decay: λ; other than 0 it moves the maximum.

    Raises:
        ValueError: if a number is out of its range.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("beta1", "beta2"):
            if not 0 <= real(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")
        real("epsilon", self.epsilon, above=0.0)
        if real("weight_decay", self.weight_decay) < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay!r}")

    def moments(self, parameters: Gradient) -> list[Gradient]:
        """Return m = 0 and v = 0; see `Optimizer.moments`."""
        return [tuple(torch.zeros_like(each) for each in parameters) for _ in range(2)]

    def directions(
        self, gradient: Gradient, parameters: Gradient, moments: Sequence[Gradient], iteration: int
    ) -> Gradient:
        """Return m̂/(√v̂ + ε) − λθ; see `Optimizer.directions`."""
        first, second = 1 - self.beta1**iteration, 1 - self.beta2**iteration
        found = []
        for part, parameter, mean, square in zip(gradient, parameters, *moments, strict=True):
            mean.lerp_(part, 1 - self.beta1)
            square.mul_(self.beta2).addcmul_(part, part, value=1 - self.beta2)
            step = (mean / first) / ((square / second).sqrt() + self.epsilon)
            found.append(step - self.weight_decay * parameter)
        return tuple(found)


OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "adamw": AdamW()}
"""Optimizers by name, with their defaults."""
