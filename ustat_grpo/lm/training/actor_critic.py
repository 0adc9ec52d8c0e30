"""One step of Algorithm 1 of arXiv 2603.01162, or of an actor–critic in its place.

Both sample, score and step by the same functions: what differs is where the baseline comes from.
The critic is a network of the policy's size, which regression on rewards teaches V̂(x, y_<t): read
at the last token of the prompt (t = 1), or at every token as PPO does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ustat_grpo.estimators.scored import Scored, scorable
from ustat_grpo.inputs.checks import real, same_length
from ustat_grpo.lm.language_model import LanguageModel, Rollouts
from ustat_grpo.lm.models.transformer import Transformer
from ustat_grpo.lm.sampling import sample_rows
from ustat_grpo.lm.scoring import Answers, Gradient, logits_before, merged, token_weighted_score
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import Optimizer, Sgd, require_supported
from ustat_grpo.lm.training.policy_gradient import draw_step, mean_reward
from ustat_grpo.optimization.training_config import ON_POLICY, TrainingConfig

Phase = Callable[[str], AbstractContextManager[Any]]
"""Watches a part of a step by its name: `sampling`, `critic` or `policy`."""


@dataclass(frozen=True, eq=False)
class Learner:
    """A network, and how it follows a gradient: θ ← θ + η·direction.

    Args:
        network: policy or critic; changed in place.
        learning_rate: η.
        optimizer: turns gradients into directions.
        moments: what the optimizer remembers.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Learner
        >>> learner = Learner(torch.nn.Linear(1, 1, bias=False), learning_rate=0.5)
        >>> before = learner.network.weight.item()
        >>> learner.ascend((torch.tensor([[2.0]]),), iteration=1)
        >>> round(learner.network.weight.item() - before, 4)  # η times the gradient
        1.0
    """

    network: Any
    learning_rate: float
    optimizer: Optimizer = field(default_factory=Sgd)
    moments: list[Gradient] = field(init=False)

    def __post_init__(self) -> None:
        """Begin without memory."""
        real("learning_rate", self.learning_rate, above=0.0)
        object.__setattr__(self, "moments", self.optimizer.moments(self.parameters))

    @property
    def parameters(self) -> Gradient:
        """θ, what is trained."""
        return tuple(each for each in self.network.parameters() if each.requires_grad)

    @torch.no_grad()
    def ascend(self, gradient: Gradient, iteration: int) -> None:
        """Take step 1, 2, … up the gradient."""
        moves = self.optimizer.directions(gradient, self.parameters, self.moments, iteration)
        for parameter, move in zip(self.parameters, moves, strict=True):
            parameter.add_(move, alpha=self.learning_rate)


def value_network(policy: Transformer) -> Transformer:
    """Return a critic that starts from the policy's weights, with one output that is 0 everywhere.

    It is called as the policy is; its one logit is V̂.

    Args:
        policy: is copied, and not changed.

    Examples:
        >>> from ustat_grpo.lm import Prompts, shipped_policy, value_network
        >>> critic = value_network(shipped_policy("intermediate"))
        >>> prompts = Prompts.of([[2, 3]], pad_token=0)
        >>> values, _ = critic(prompts.tokens, prompts.real)
        >>> abs(values).tolist()  # one number a place, 0 before any training
        [[[0.0], [0.0]]]
    """
    critic = deepcopy(policy)
    weight = policy.head.weight
    critic.head = nn.Linear(policy.shape.width, 1, device=weight.device, dtype=weight.dtype)
    for parameter in critic.head.parameters():
        nn.init.zeros_(parameter)
    return critic


def values(critic: Transformer, answers: Answers, *, per_token: bool) -> Float[Tensor, "U T"]:
    """Return V̂(x, y_<t) before every token of the outputs; what stands outside the mask is noise.

    Args:
        critic: from `value_network`.
        answers: the outputs.
        per_token: whether the critic reads the outputs. Else it reads each prompt once, and T = 1.
    """
    if per_token:
        return logits_before(critic, answers)[..., 0]
    at_prompts, _ = critic(answers.prompts.tokens, answers.prompts.real, last=1)
    return at_prompts[answers.prompt, -1]


def regression(
    critic: Transformer,
    answers: Answers,
    returns: Float[Tensor, " U"],
    counts: Float[Tensor, " U"],
    *,
    per_token: bool,
) -> tuple[Gradient, Float[Tensor, "U T"]]:
    """Return the gradient of the mean squared error, and the predictions that it is the error of.

    ∇ Σ_u n_u Σ_t (V̂(x_u, y_u,<t) − Z_u)² / Σ_u n_u T_u, with T_u the tokens of an output, or 1 if
    the critic reads the prompts only. With discount and λ of 1 the return of every token is Z.

    Args:
        critic: from `value_network`.
        answers: the outputs.
        returns: Z of each; the mean if an output stands for several.
        counts: n, how many each stands for; 0 leaves it out.
        per_token: see `values`.

    Raises:
        ValueError: if there is not one return and one count a row.
    """
    same_length("rows", {"answers": len(answers), "returns": len(returns), "counts": len(counts)})
    predictions = values(critic, answers, per_token=per_token)
    weights = counts[:, None] * (answers.mask if per_token else torch.ones_like(predictions))
    squares = weights * (predictions - returns[:, None]).square()
    loss = squares.sum() / weights.sum().clamp(min=1)
    trained = [each for each in critic.parameters() if each.requires_grad]
    # Where only prompts are read nothing is needed after the first place, so nothing is missing.
    return torch.autograd.grad(loss, trained), predictions.detach()


@dataclass(frozen=True, eq=False)
class LearnedCritic:
    """A value network that is trained beside the policy, one step each.

    Args:
        learner: of the network, from `value_network`.
        per_token: whether it reads the outputs: A_t = Z − V̂(x, y_<t), as PPO with discount and
            λ of 1; else A = Z − V̂(x).

    Examples:
        >>> from ustat_grpo.lm import LearnedCritic, Learner, shipped_policy, value_network
        >>> policy = shipped_policy("intermediate")
        >>> network = value_network(policy)  # starts from the policy's weights
        >>> critic = LearnedCritic(Learner(network, learning_rate=0.01), per_token=True)
        >>> tuple(critic.learner.network.head.weight.shape)  # but has one output: V̂
        (1, 56)
    """

    learner: Learner
    per_token: bool = False


@dataclass(frozen=True, eq=False)
class ActorCritic:
    """A policy, and the critic that learns beside it.

    Args:
        policy: what is trained.
        critic: whose predictions are the baseline; None for Algorithm 1, which has none.

    Examples:
        >>> from ustat_grpo.lm import ActorCritic, Learner, shipped_policy
        >>> alone = ActorCritic(Learner(shipped_policy("intermediate"), learning_rate=0.01))
        >>> alone.critic is None
        True
    """

    policy: Learner
    critic: LearnedCritic | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """G outputs to each of B prompts, with their rewards.

    Args:
        answers: the U distinct ones.
        place: where each output stands among these, shape (B, G).
        rewards: Z, shape (B, G).
    """

    answers: Answers
    place: Int[Tensor, "B G"]
    rewards: Float[Tensor, "B G"]

    def summed(self, per_output: Float[Tensor, "B G ..."]) -> Float[Tensor, "U ..."]:
        """Add up what belongs to the same distinct output."""
        flat = per_output.flatten(0, 1)
        total = flat.new_zeros(len(self.answers), *flat.shape[1:])
        return total.index_add(0, self.place.flatten(), flat)


def draw_batch(
    policy: LanguageModel, task: Task, config: TrainingConfig, rng: torch.Generator
) -> Batch:
    """Sample as `ustat_grpo.lm.training.policy_gradient.policy_gradients` does.

    Raises:
        ValueError: if outputs may outgrow the policy's context.
    """
    groups = (config.batch_size, config.group_size)
    questions, numbers = draw_step(config, task, rng)
    unlike, row = torch.unique(questions, return_inverse=True)
    prompts, prompt_of = task.prompts[unlike], row.repeat_interleave(config.group_size)
    sampled = sample_rows(policy, prompts, prompt_of, numbers)
    answers, place = merged(Answers(prompts, prompt_of, *sampled[:2]))
    rollouts = Rollouts(task.prompts[questions], *(each.unflatten(0, groups) for each in sampled))
    return Batch(answers, place.view(groups), task.reward(rollouts, questions))


def policy_step_gradient(
    policy: LanguageModel, batch: Batch, advantages: Float[Tensor, "B G T"]
) -> Gradient:
    """Return (1/BG) Σ_b Σ_i Σ_t A_bit ∇ log π(y_bit∣x_b, y_bi,<t).

    Args:
        policy: the policy that sampled.
        batch: its outputs.
        advantages: of each token, or of each output if T = 1; 0 where there is no reward.
    """
    scored = scorable(batch.rewards).sum(dim=-1).clamp(min=1)
    weights = batch.summed(advantages / (scored * len(scored))[:, None, None])
    kept = (weights != 0).any(dim=1).nonzero()[:, 0]
    return token_weighted_score(
        policy,
        batch.answers[kept],
        lambda rows, _, now: weights[kept[rows], : now.shape[1]].to(now),
    )


def train_step(
    learners: ActorCritic,
    task: Task,
    config: TrainingConfig,
    *,
    rng: torch.Generator,
    iteration: int,
    phase: Phase = nullcontext,
) -> float:
    """Sample, step the critic if there is one, step the policy; return the mean reward.

    The critic's predictions are those before its step: they know nothing of these rewards, so the
    gradient is unbiased. Without a critic the estimator turns rewards into advantages. Rates and
    optimizers are the learners' own.

    Args:
        learners: the policy, and its critic if any.
        task: prompts, rewards and the length of outputs.
        config: how many outputs to how many prompts, and the estimator.
        rng: source of randomness; see `ustat_grpo.lm.training.training.run_rng`.
        iteration: 1, 2, ….
        phase: watches the parts of the step.

    Raises:
        ValueError: if the configuration asks for more than a step of Algorithm 1, the estimator
            needs larger groups, or outputs may outgrow the context.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig, lm
        >>> policy = lm.Learner(lm.shipped_policy("intermediate"), learning_rate=0.01)
        >>> network = lm.value_network(policy.network)
        >>> critic = lm.LearnedCritic(lm.Learner(network, learning_rate=0.01))
        >>> questions, _ = lm.arithmetic_questions(10, 5, rng=np.random.default_rng(0))
        >>> task = lm.Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> config = TrainingConfig(
        ...     estimator=Grpo(), batch_size=16, group_size=1, num_iterations=1,
        ...     schedule=Constant(0.01),
        ... )
        >>> mean_reward = lm.train_step(
        ...     lm.ActorCritic(policy, critic), task, config, rng=lm.run_rng(0), iteration=1
        ... )
        >>> 0 < mean_reward < 1  # one output a prompt is enough for a critic
        True
    """
    require_supported(config)
    if config.practice != ON_POLICY:
        raise ValueError(f"practice must be that of Algorithm 1, got {config.practice!r}")
    policy, critic = learners.policy, learners.critic
    with phase("sampling"):
        batch = draw_batch(policy.network, task, config, rng)
    if critic is None:
        advantages = config.estimator.advantages(batch.rewards)[..., None]
    else:
        with phase("critic"):
            predictions = _train_critic(critic, batch, iteration)
        z = Scored.of(batch.rewards[..., None])
        advantages = z.rounded(z.less(predictions[batch.place]))
    with phase("policy"):
        policy.ascend(policy_step_gradient(policy.network, batch, advantages), iteration)
    return float(mean_reward(batch.rewards))


def _train_critic(critic: LearnedCritic, batch: Batch, iteration: int) -> Float[Tensor, "U T"]:
    """Step the critic; return its predictions before the step."""
    scored = scorable(batch.rewards)
    counts = batch.summed(scored.to(batch.rewards.dtype))
    returns = batch.summed(batch.rewards.where(scored, 0)) / counts.clamp(min=1)
    gradient, predictions = regression(
        critic.learner.network, batch.answers, returns, counts, per_token=critic.per_token
    )
    critic.learner.ascend(tuple(-part for part in gradient), iteration)
    return predictions
