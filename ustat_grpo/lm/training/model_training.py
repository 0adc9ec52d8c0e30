"""What a run on a language model has beside its configuration: an optimizer, and limits.

Optimizers turn gradients into directions of ascent, θ ← θ + η·direction. The rate is not theirs:
stacked parameters of several runs step together, each run at its own rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ustat_grpo.inputs.checks import capable, integer, real
from ustat_grpo.lm.scoring import Gradient
from ustat_grpo.optimization.training_config import TrainingConfig, require_training_config


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
    """The gradient itself, as in Algorithm 1 of arXiv 2603.01162.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Sgd
        >>> gradient = (torch.tensor([3.0, -4.0]),)
        >>> Sgd().directions(gradient, gradient, [], iteration=1)
        (tensor([ 3., -4.]),)
    """

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
        TypeError: if configuration or optimizer is an object of another kind.
        ValueError: if a number is out of its range.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import AdamW
        >>> gradient, parameters = (torch.tensor([3.0, -4.0]),), (torch.zeros(2),)
        >>> optimizer = AdamW()
        >>> moments = optimizer.moments(parameters)
        >>> (direction,) = optimizer.directions(gradient, parameters, moments, iteration=1)
        >>> direction.round().tolist()  # the first step goes as far along every coordinate
        [1.0, -1.0]
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
        steps = []
        for part, parameter, mean, square in zip(gradient, parameters, *moments, strict=True):
            mean.lerp_(part, 1 - self.beta1)
            square.mul_(self.beta2).addcmul_(part, part, value=1 - self.beta2)
            step = (mean / first) / ((square / second).sqrt() + self.epsilon)
            steps.append(step - self.weight_decay * parameter)
        return tuple(steps)


OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "adamw": AdamW()}
"""Optimizers by name, with their defaults."""


@dataclass(frozen=True)
class ModelTraining:
    """One run of Algorithm 1 or 2 on a language model.

    Args:
        config: what any run has. Its estimator may know V(x), if the task does, and the lengths of
            outputs, but no scores; its prompts are drawn i.i.d., and parameters go anywhere.
        optimizer: turns gradients into directions; the gradient itself, by default.
        norm_limit: a norm of gradient or parameters beyond it stops the run.
        rows_per_pass: bounds the memory: so many distinct outputs are scored at a time; None takes
            all of them.

    Raises:
        ValueError: if a number is out of its range, or the configuration asks for what training of
            language models does not know (`require_supported`).

    Examples:
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig
        >>> from ustat_grpo.lm import ModelTraining
        >>> config = TrainingConfig(
        ...     estimator=Grpo(), batch_size=32, group_size=8, num_iterations=9,
        ...     schedule=Constant(0.01),
        ... )
        >>> training = ModelTraining(config, norm_limit=100.0)
        >>> training.config.budget, training.optimizer
        (256, Sgd())
    """

    config: TrainingConfig
    optimizer: Optimizer = field(default_factory=Sgd)
    norm_limit: float = 1e4
    rows_per_pass: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and what the configuration asks for."""
        require_supported(self.config)
        capable("optimizer", self.optimizer, "directions", "AdamW()")
        real("norm_limit", self.norm_limit, above=0.0)
        if self.rows_per_pass is not None:
            integer("rows_per_pass", self.rows_per_pass)


def require_supported(config: TrainingConfig) -> None:
    """Raise unless a run on a language model does all that its configuration asks for.

    Raises:
        TypeError: if it is no TrainingConfig.
        ValueError: if it asks for a projection, for prompts that are not drawn i.i.d., or for
            checkpoints without θ.
    """
    require_training_config(config)
    if config.projection is not None:
        raise ValueError(
            "projection must be None for a language model, whose parameters are unconstrained, "
            f"got {config.projection!r}"
        )
    if config.prompt_sampling != "iid":
        raise ValueError(
            f"prompt_sampling must be 'iid' for a language model, got {config.prompt_sampling!r}"
        )
    if not config.keep_theta:
        raise ValueError(
            "keep_theta must be True for a language model, whose checkpoints hold its parameters, "
            f"got {config.keep_theta!r}"
        )
