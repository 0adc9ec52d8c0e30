"""The policy gradient of Algorithm 1 of arXiv 2603.01162, of one policy or of several at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
from ustat_grpo.lm.rewards import Reward
from ustat_grpo.lm.sampling import sample_rows, uniforms
from ustat_grpo.lm.scoring import Answers, Gradient, merged, weighted_score_of

Value = Callable[[LanguageModel, Int[Tensor, " B"]], Float[Tensor, " B"]]
"""Returns V(x) under a policy at some questions of a set."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned.

    Args:
        prompts: the questions of the train set.
        reward: of outputs; where it returns NaN, an output could not be scored and counts for
            nothing.
        value: V(x), for estimators that need to know it; None for those that do not, since it
            costs a pass over the prompts at every step.
    """

    prompts: Prompts
    reward: Reward
    value: Value | None = None


class GroupSampling(Protocol):
    """How a run samples its groups, and what it makes of their rewards."""

    @property
    def batch_size(self) -> int:
        """B, prompts drawn i.i.d. from the train set."""
        ...

    @property
    def group_size(self) -> int:
        """G, outputs to each."""
        ...

    @property
    def max_tokens(self) -> int:
        """The most tokens of an output, the end token included."""
        ...

    @property
    def estimator(self) -> Estimator:
        """Turns rewards into advantages."""
        ...

    @property
    def rows_per_pass(self) -> int | None:
        """Bounds the memory: so many distinct outputs scored at a time; None takes all."""
        ...


class Policies(Protocol):
    """Policies that are asked together."""

    @property
    def model(self) -> Any:
        """The language model that they are together; stacks their parameters, if it is several."""
        ...

    def ask(self, prompts: Prompts, members: Int[Tensor, " P"]) -> Prompts:
        """Return prompts, each for one of the policies, as prompts for `model`."""
        ...

    def member(self, place: int) -> LanguageModel:
        """Return one of them, to look at."""
        ...


@dataclass(frozen=True, eq=False)
class Alone:
    """A single policy; see `Policies`.

    Args:
        model: a `LanguageModel`.
    """

    model: Any

    def ask(self, prompts: Prompts, members: Int[Tensor, " P"]) -> Prompts:
        """Return the prompts as they are."""
        return prompts

    def member(self, place: int) -> LanguageModel:
        """Return the model."""
        return self.model


class _Draw(NamedTuple):
    """What a run draws for one step: questions, and uniform numbers for all its outputs."""

    questions: Int[Tensor, " B"]
    numbers: Float[Tensor, "N L"]


def _draw(run: GroupSampling, prompts: Prompts, rng: torch.Generator) -> _Draw:
    """Draw for a step; takes as much from `rng` for every cut of a budget N into B and G."""
    budget = run.batch_size * run.group_size
    questions = torch.randint(len(prompts), (budget,), generator=rng, device=rng.device)
    return _Draw(
        questions[: run.batch_size].to(prompts.tokens.device),
        uniforms(budget, run.max_tokens, rng=rng),
    )


def policy_gradients(
    policies: Policies,
    task: Task,
    runs: Sequence[GroupSampling],
    rngs: Sequence[torch.Generator],
) -> tuple[Gradient, Float[Tensor, " E"]]:
    """Return ĝ = (1/BG) Σ_b Σ_i A_bi ∇ log π(y_bi∣x_b) of every run, and its mean reward.

    The model reads a prompt once, however often it was drawn, and the backward pass sees a distinct
    output once, and none without an advantage. The task may live on another device than the model:
    rewards and advantages are computed there.

    Args:
        policies: of the E runs.
        task: prompts and rewards.
        runs: how each of them samples.
        rngs: source of randomness of each.

    Returns:
        The gradient of `policies.model`, and E mean rewards.

    Raises:
        ValueError: if rewards have another shape than the groups, or outputs may outgrow the
            model's context.
    """
    home, away = task.prompts.tokens.device, next(iter(policies.model.parameters())).device
    draws = [_draw(run, task.prompts, rng) for run, rng in zip(runs, rngs, strict=True)]
    prompts, asked = _asked(policies, task, runs, draws)
    prompts, asked = prompts.to(away), asked.to(away)
    numbers = torch.cat([draw.numbers for draw in draws])
    sampled = sample_rows(policies.model, prompts, asked, numbers)
    answers, place = merged(Answers(prompts, asked, *sampled[:2]))
    cuts = [len(draw.numbers) for draw in draws]
    parts = zip(*(each.to(home).split(cuts) for each in sampled), strict=True)
    weights, means = [], []
    with torch.no_grad():
        for member, (run, draw, part) in enumerate(zip(runs, draws, parts, strict=True)):
            value = task.value and task.value(policies.member(member), draw.questions)
            found, mean = _weights(run, task, draw.questions, part, value)
            weights.append(found)
            means.append(mean)
    of_output = torch.cat(weights).to(sampled[2])
    summed = of_output.new_zeros(len(answers)).index_add(0, place, of_output)
    gradient = weighted_score_of(
        policies.model, answers, summed, rows_per_pass=runs[0].rows_per_pass
    )
    return gradient, torch.stack(means).cpu()


def _asked(
    policies: Policies, task: Task, runs: Sequence[GroupSampling], draws: Sequence[_Draw]
) -> tuple[Prompts, Int[Tensor, " n"]]:
    """Return each prompt once, and which of them every output answers."""
    count = len(task.prompts)
    drawn = torch.cat([place * count + draw.questions for place, draw in enumerate(draws)])
    unlike, row = torch.unique(drawn, return_inverse=True)
    prompts = policies.ask(task.prompts[unlike % count], unlike // count)
    sizes = torch.tensor([run.group_size for run in runs for _ in range(run.batch_size)])
    return prompts, row.repeat_interleave(sizes.to(row.device))


def _weights(
    run: GroupSampling,
    task: Task,
    questions: Int[Tensor, " B"],
    sampled: Sequence[Tensor],
    value: Float[Tensor, " B"] | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, ""]]:
    """Return advantage/(BG) of a run's outputs, and their mean reward."""
    groups = (run.batch_size, run.group_size)
    rollouts = Rollouts(task.prompts[questions], *(each.unflatten(0, groups) for each in sampled))
    rewards = task.reward(rollouts, questions)
    if tuple(rewards.shape) != groups:
        raise ValueError(f"reward must return the shape {groups}, got {tuple(rewards.shape)}")
    advantages = run.estimator.advantages(rewards, SideInformation(value))
    scored = (~rewards.isnan()).sum(dim=-1, keepdim=True).clamp(min=1)
    return (advantages / (scored * run.batch_size)).flatten(), rewards.double().nanmean()
