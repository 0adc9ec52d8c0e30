"""Many runs of training as one: models of the same shape side by side, one batch for all."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ustat_grpo.lm.language_model import LanguageModel, Prompts
from ustat_grpo.lm.scoring import Answers
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import ModelTraining
from ustat_grpo.lm.training.surrogate import log_probs_under
from ustat_grpo.lm.training.training import (
    Checkpoint,
    Evaluate,
    ModelRuns,
    RunState,
    checkpoints_of,
    reference_of,
    require_kinds,
)


def train_ensemble(
    model: Any,
    task: Task,
    trainings: Sequence[ModelTraining],
    *,
    rngs: Sequence[torch.Generator],
    evaluate: Evaluate,
    states: Sequence[RunState] | None = None,
) -> Iterator[tuple[Checkpoint, ...]]:
    """Run Algorithm 1 or 2 several times at once, each run as `train` would.

    Worth it where the device is idle under one run: on a GPU, all seeds and group sizes of a
    budget. The runs may differ in batch and group size, estimator, schedule and limit. The model's
    cache must be made of tensors whose first axis are the rows.

    Args:
        model: the policy at θ_0 of every run; a module that is a `LanguageModel`. Is not changed.
            Under a penalty it is the reference as well, unless the task has one.
        task: prompts, rewards and the length of outputs, on this device or another.
        trainings: one a run.
        rngs: one a run.
        evaluate: is called with a model at every checkpoint of every run. That model takes on the
            next run's parameters afterwards.
        states: one a run, to go on from there; a state of `train` is as good.

    Returns:
        One checkpoint a run, as they reach them together.

    Raises:
        ValueError: if runs differ in what must be common, the numbers of trainings, generators and
            states differ, or states do not fit.
        FloatingPointError: if a norm of gradient or parameters is NaN or beyond its limit.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig, lm
        >>> policy = lm.shipped_policy("intermediate")
        >>> questions, _ = lm.arithmetic_questions(10, 5, rng=np.random.default_rng(0))
        >>> task = lm.Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> wide = TrainingConfig(
        ...     estimator=Grpo(), batch_size=8, group_size=2, num_iterations=1,
        ...     schedule=Constant(0.01),
        ... )
        >>> deep = replace(wide, batch_size=2, group_size=8)  # another division of 16 outputs
        >>> trainings = [lm.ModelTraining(config) for config in (wide, deep)]
        >>> def look(model):
        ...     return {"accuracy": lm.expected_accuracy(model, questions.solutions)}
        >>> (checkpoints,) = lm.train_ensemble(
        ...     policy, task, trainings, rngs=[lm.run_rng(0, 16) for _ in trainings], evaluate=look
        ... )
        >>> [(each.iteration, 0 < each.measured["accuracy"] < 1) for each in checkpoints]
        [(1, True), (1, True)]
    """
    if not trainings or len(rngs) != len(trainings):
        raise ValueError(
            f"rngs must be one a training, at least one, got {len(rngs)} for {len(trainings)}"
        )
    require_kinds(task, trainings, rngs, evaluate)
    configs = [training.config for training in trainings]
    for name in ("num_iterations", "checkpoints", "practice"):
        _require_common(name, [getattr(config, name) for config in configs])
    for name in ("optimizer", "rows_per_pass"):
        _require_common(name, [getattr(training, name) for training in trainings])
    together = Ensemble.of(model, len(trainings))
    trained = tuple(p.detach() for p in together.parameters())
    reference = reference_of(model, task, configs[0].practice)
    runs = ModelRuns(_Together(together, reference), trained, tuple(trainings), tuple(rngs))
    return checkpoints_of(runs, task, evaluate, states)


def _require_common(name: str, values: Sequence[Any]) -> None:
    if any(value != values[0] for value in values):
        raise ValueError(f"{name} must be common to the ensemble, got {values}")


class _Layout(NamedTuple):
    """Where rows are, a member's side by side: row r is in slot `slot[r]` of `member[r]`."""

    member: Int[Tensor, " n"]
    slot: Int[Tensor, " n"]
    rows: Int[Tensor, "E k"]
    """The row in every slot; any row, where there is none."""

    def pack(self, values: Tensor) -> Tensor:
        """Return values (n, ...) as (E, k, ...)."""
        return values[self.rows]

    def unpack(self, values: Tensor) -> Tensor:
        """Return values (E, k, ...) as (n, ...)."""
        return values[self.member, self.slot]


def _layout(member: Int[Tensor, " n"], num_members: int) -> _Layout:
    """Put rows side by side, those of a member in their order."""
    counts = torch.bincount(member, minlength=num_members)
    order = member.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    slot = torch.empty_like(order)
    slot[order] = torch.arange(len(order), device=order.device) - starts[member[order]]
    rows = member.new_zeros(num_members, int(counts.max()))
    rows[member, slot] = torch.arange(len(order), device=order.device)
    return _Layout(member, slot, rows)


class _Cache(NamedTuple):
    """The caches of all members, and where rows are in them."""

    layout: _Layout
    values: Any


@dataclass(frozen=True, eq=False)
class Ensemble:
    """E models of one shape as one `LanguageModel`: a prompt begins with the number of its member.

    Args:
        template: a module of that shape; lends its computation, not its parameters.
        names: of the parameters that are trained.
        stacked: those parameters, each of shape (E, ...).
    """

    template: Any
    names: tuple[str, ...]
    stacked: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, model: Any, num_members: int) -> Self:
        """Return copies of one model as an ensemble."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        stacked = [
            nn.Parameter(p.detach().expand(num_members, *p.shape).clone()) for p in trained.values()
        ]
        return cls(deepcopy(model), tuple(trained), tuple(stacked))

    @property
    def end_token(self) -> int:
        """The token that ends an output."""
        return self.template.end_token

    def ended(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs end with the last of their tokens."""
        return self.template.ended(outputs)

    @property
    def context_length(self) -> int:
        """The most tokens that the number of the member, prompt and output have together."""
        return self.template.context_length + 1

    def __call__(
        self,
        tokens: Int[Tensor, "n t"],
        real: Bool[Tensor, "n s"],
        cache: _Cache | None = None,
        *,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "n t v"], _Cache]:
        """Ask each row's member; see `LanguageModel.__call__`."""
        wanted = tokens.shape[1] if last is None else min(last, tokens.shape[1])
        if cache is None:
            layout, tokens = _layout(tokens[:, 0], len(self.stacked[0])), tokens[:, 1:]
        else:
            layout = cache.layout
        packed = (layout.pack(tokens), layout.pack(real[:, 1:]))
        before = () if cache is None else (cache.values,)
        # Fused attention has no batching rule.
        with sdpa_kernel(SDPBackend.MATH):
            logits, values = vmap(partial(self._one, last))(self.stacked, *packed, *before)
        # Nothing comes after the number of a member but the prompt.
        logits = functional.pad(logits, (0, 0, wanted - logits.shape[-2], 0))
        return layout.unpack(logits), _Cache(layout, values)

    def _one(self, last: int | None, parameters: Sequence[Tensor], *inputs: Any) -> Any:
        named = dict(zip(self.names, parameters, strict=True))
        return functional_call(self.template, named, inputs, {"last": last})

    def select(self, cache: _Cache, rows: Int[Tensor, " m"]) -> _Cache:
        """Return the cache of some rows; see `LanguageModel.select`."""
        layout = _layout(cache.layout.member[rows], len(self.stacked[0]))
        slots = layout.pack(cache.layout.slot[rows])
        return _Cache(layout, vmap(self.template.select)(cache.values, slots))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the stacked parameters."""
        return iter(self.stacked)


@dataclass(frozen=True, eq=False)
class _Together:
    """The members of an ensemble, and the reference of them all; see `JointPolicies`."""

    model: Ensemble
    reference: Any

    def ask(self, prompts: Prompts, members: Int[Tensor, " P"]) -> Prompts:
        """Put the number of the member before each prompt."""
        return Prompts(
            torch.cat([members[:, None], prompts.tokens], dim=1),
            functional.pad(prompts.real, (1, 0), value=True),
        )

    @torch.no_grad()
    def member(self, place: int) -> LanguageModel:
        """Return the template with the parameters of one member."""
        module = self.model.template
        for name, stack in zip(self.model.names, self.model.stacked, strict=True):
            module.get_parameter(name).copy_(stack[place])
        return module

    def reference_log_probs(self, answers: Answers) -> Float[Tensor, "U L"]:
        """Ask the reference, which has no members; see `JointPolicies.reference_log_probs`."""
        prompts = answers.prompts
        plain = Prompts(prompts.tokens[:, 1:], prompts.real[:, 1:])
        return log_probs_under(self.reference)(replace(answers, prompts=plain))
