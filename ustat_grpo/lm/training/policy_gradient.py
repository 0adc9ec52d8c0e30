"""Policy gradients of a step of training, of one policy or of several at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.estimators import SideInformation
from ustat_grpo.estimators.scored import scorable
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
from ustat_grpo.lm.sampling import require_torch_generator, sample_rows, uniforms
from ustat_grpo.lm.scoring import Answers, Gradient
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import ModelTraining
from ustat_grpo.lm.training.surrogate import Sampled, log_probs_under, surrogate_gradient
from ustat_grpo.optimization.training_config import TrainingConfig


class JointPolicies(Protocol):
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

    def reference_log_probs(self, answers: Answers) -> Float[Tensor, "U L"]:
        """Return the log-probabilities under π_ref of answers to prompts for `model`."""
        ...


@dataclass(frozen=True, eq=False)
class Alone:
    """A single policy; see `JointPolicies`.

    Args:
        model: a `LanguageModel`.
        reference: π_ref; None if there is no penalty.
    """

    model: Any
    reference: Any = None

    def ask(self, prompts: Prompts, members: Int[Tensor, " P"]) -> Prompts:
        """Return the prompts as they are."""
        return prompts

    def member(self, place: int) -> LanguageModel:
        """Return the model."""
        return self.model

    def reference_log_probs(self, answers: Answers) -> Float[Tensor, "U L"]:
        """Ask the reference; see `JointPolicies.reference_log_probs`."""
        return log_probs_under(self.reference)(answers)


class StepDraw(NamedTuple):
    """What a run draws for one step: questions, and uniform numbers for all its outputs."""

    questions: Int[Tensor, " B"]
    numbers: Float[Tensor, "N L"]


def mean_reward(rewards: Float[Tensor, "B G"]) -> Float[Tensor, ""]:
    """Return the mean of the scorable rewards, in double precision; NaN where there is none."""
    return rewards.double().masked_fill(~scorable(rewards), torch.nan).nanmean()


def draw_step(config: TrainingConfig, task: Task, rng: torch.Generator) -> StepDraw:
    """Draw for a step; takes as much from `rng` for every cut of a budget N into B and G."""
    require_torch_generator(rng)
    num_prompts, device = len(task.prompts), task.prompts.tokens.device
    questions = torch.randint(num_prompts, (config.budget,), generator=rng, device=rng.device)
    return StepDraw(
        questions[: config.batch_size].to(device),
        uniforms(config.budget, task.max_tokens, rng=rng),
    )


def policy_gradients(
    policies: JointPolicies,
    task: Task,
    runs: Sequence[ModelTraining],
    rngs: Sequence[torch.Generator],
) -> Iterator[tuple[Gradient, Float[Tensor, " E"]]]:
    """Sample once, and yield every run's ĝ of each of the m minibatches in turn.

    ĝ = (1/|b|G) Σ_b Σ_i Σ_t [A_bi ρ_bit − κ k′_bit] ∇ log π_θ(y_bit∣x_b, y_bi,<t) is taken at the
    parameters as they are when it is asked for; the first minibatch's ρ is 1. See `Practice`.

    The model reads a prompt once, however often it was drawn, and the backward pass sees a distinct
    output once, and none without an advantage unless it pays a penalty. An output without a reward
    pays none. The task may live on another device than the model: rewards and advantages are
    computed there.

    Args:
        policies: of the E runs.
        task: prompts, rewards and the length of outputs.
        runs: how each of them samples; practice and memory are common to all.
        rngs: source of randomness of each.

    Yields:
        The gradient of `policies.model`, and E mean rewards.

    Raises:
        ValueError: if rewards have another shape than the groups, or outputs may outgrow the
            model's context.
    """
    sampled, means = _sample(policies, task, runs, rngs)
    practice, configs = runs[0].config.practice, [run.config for run in runs]
    for place in range(practice.num_minibatches):
        yield (
            surrogate_gradient(
                policies.model,
                sampled[_minibatch(configs, place).to(sampled.weights.device)],
                # The outputs of the first are the policy's own: its ratios are 1, to every bit.
                practice if place else replace(practice, ratio="none", clip=None),
                reference=policies.reference_log_probs,
                rows_per_pass=runs[0].rows_per_pass,
            ),
            means,
        )


def _sample(
    policies: JointPolicies,
    task: Task,
    runs: Sequence[ModelTraining],
    rngs: Sequence[torch.Generator],
) -> tuple[Sampled, Float[Tensor, " E"]]:
    """Return the outputs of all runs, one run after the other, and the mean rewards."""
    home, away = task.prompts.tokens.device, next(iter(policies.model.parameters())).device
    configs = [run.config for run in runs]
    draws = [draw_step(config, task, rng) for config, rng in zip(configs, rngs, strict=True)]
    prompts, prompt_of = _joint_prompts(policies, task, configs, draws)
    prompts, prompt_of = prompts.to(away), prompt_of.to(away)
    numbers = torch.cat([draw.numbers for draw in draws])
    sampled = sample_rows(policies.model, prompts, prompt_of, numbers)
    cuts = [len(draw.numbers) for draw in draws]
    parts = zip(*(each.to(home).split(cuts) for each in sampled), strict=True)
    weighted = []
    with torch.no_grad():
        for member, (config, draw, part) in enumerate(zip(configs, draws, parts, strict=True)):
            value = task.value and task.value(policies.member(member), draw.questions)
            weighted.append(_weights(config, task, draw.questions, part, value))
    weights, shares, means = zip(*weighted, strict=True)
    tokens, mask, log_probs = sampled
    columns = (torch.cat(each).to(log_probs) for each in (weights, shares))
    answers = Answers(prompts, prompt_of, tokens, mask)
    return Sampled(answers, log_probs, *columns), torch.stack(means).cpu()


def _minibatch(configs: Sequence[TrainingConfig], place: int) -> Int[Tensor, " n"]:
    """Return the rows of every run's minibatch at a place."""
    rows, start = [], 0
    for config in configs:
        size = config.budget // config.practice.num_minibatches
        rows.append(torch.arange(size) + start + place * size)
        start += config.budget
    return torch.cat(rows)


def _joint_prompts(
    policies: JointPolicies,
    task: Task,
    configs: Sequence[TrainingConfig],
    draws: Sequence[StepDraw],
) -> tuple[Prompts, Int[Tensor, " n"]]:
    """Return each prompt once, and which of them every output answers."""
    count = len(task.prompts)
    drawn = torch.cat([place * count + draw.questions for place, draw in enumerate(draws)])
    unlike, row = torch.unique(drawn, return_inverse=True)
    prompts = policies.ask(task.prompts[unlike % count], unlike // count)
    sizes = [config.group_size for config in configs for _ in range(config.batch_size)]
    return prompts, row.repeat_interleave(torch.tensor(sizes, device=row.device))


def _weights(
    config: TrainingConfig,
    task: Task,
    questions: Int[Tensor, " B"],
    sampled: Sequence[Tensor],
    value: Float[Tensor, " B"] | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, ""]]:
    """Return weights and shares (see `Sampled`) of a run's outputs, and their mean reward."""
    groups = (config.batch_size, config.group_size)
    rollouts = Rollouts(task.prompts[questions], *(each.unflatten(0, groups) for each in sampled))
    rewards = task.reward(rollouts, questions)
    if tuple(rewards.shape) != groups:
        raise ValueError(f"reward must return the shape {groups}, got {tuple(rewards.shape)}")
    side = SideInformation(value, lengths=rollouts.mask.sum(dim=-1).to(rewards.device))
    try:
        advantages = config.estimator.advantages(rewards, side)
    except ValueError as error:
        error.add_note(
            "training knows lengths, and values if the task does, but no scores or norms"
        )
        raise
    scored = scorable(rewards)
    if not scored.any() and rewards.isinf().any():
        advantages = torch.full_like(advantages, torch.nan)  # stops training before it is spoilt
    count = scored.sum(dim=-1, keepdim=True).clamp(min=1)
    count = count * (config.batch_size // config.practice.num_minibatches)
    return (
        (advantages / count).flatten(),
        (scored.to(advantages) / count).flatten(),
        mean_reward(rewards),
    )
