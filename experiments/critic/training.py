"""Runs of GRPO and of an actor–critic as tables: one row a number."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from experiments.critic.cost import held_bytes, phase_bytes, phase_seconds
from experiments.tasks.language import Panel, Sets
from ustat_grpo import Constant, Grpo, TrainingConfig
from ustat_grpo.laws import critic as law
from ustat_grpo.lm.exact import expected_accuracy, solution_probs
from ustat_grpo.lm.scores.known_solutions import norm_moments
from ustat_grpo.lm.training.actor_critic import (
    ActorCritic,
    LearnedCritic,
    Learner,
    Phase,
    train_step,
    value_network,
)
from ustat_grpo.lm.training.model_training import OPTIMIZERS, AdamW, Optimizer, Sgd
from ustat_grpo.lm.training.training import run_rng

if TYPE_CHECKING:
    from experiments.critic.config import CriticConfig, CriticRun, TrainingMethod

_STILL = 1e-12
"""A learning rate that moves no weight of single precision."""

Numbers = Iterable[tuple[str, str, float]]
"""Quantity, part and value."""


@dataclass(frozen=True, eq=False)
class _Run:
    """A policy with its critic, if any, and where it learns."""

    learners: ActorCritic
    sets: Sets
    config: TrainingConfig
    rng: torch.Generator

    def step(self, iteration: int, phase: Phase | None = None) -> float:
        """Take a step, and return its mean reward."""
        task, watched = self.sets.train.task, {} if phase is None else {"phase": phase}
        return train_step(
            self.learners, task, self.config, rng=self.rng, iteration=iteration, **watched
        )


def _begin(
    config: "CriticConfig",
    sets: Sets,
    method: "TrainingMethod",
    *,
    seed: int,
    optimizer: Optimizer,
    critic_optimizer: Optimizer,
) -> _Run:
    """Return a run at its start; runs of a seed share questions and random numbers."""
    policy: Any = deepcopy(sets.train.model)
    critic = None
    if method.name != "grpo":
        network = value_network(policy)
        learner = Learner(network, config.critic_learning_rate, critic_optimizer)
        critic = LearnedCritic(learner, per_token=method.name == "token_critic")
    training = TrainingConfig(
        estimator=Grpo(),
        batch_size=config.budget // method.group_size,
        group_size=method.group_size,
        num_iterations=config.iterations[-1],
        schedule=Constant(config.learning_rate),
        checkpoints=config.iterations,
    )
    rng = run_rng(config.seed, config.budget, seed)
    learner = Learner(policy, config.learning_rate, optimizer)
    return _Run(ActorCritic(learner, critic), sets, training, rng)


def train(config: "CriticConfig", sets: Sets, cell: "CriticRun") -> pd.DataFrame:
    """Train one run, and return its table."""
    run = _begin(
        config, sets, cell.method, seed=cell.seed, optimizer=Sgd(), critic_optimizer=AdamW()
    )
    tables = [_table(config, cell.method, _look(config, run, cell.seed), iteration=0)]
    rewards: list[float] = []
    for iteration in range(1, run.config.num_iterations + 1):
        rewards.append(run.step(iteration))
        if iteration in run.config.checkpoints:
            found = [*_look(config, run, cell.seed), ("mean_reward", "", float(np.mean(rewards)))]
            tables.append(_table(config, cell.method, found, iteration=iteration))
            rewards = []
    return pd.concat(tables).assign(seed=cell.seed, optimizer="sgd")


def _look(config: "CriticConfig", run: _Run, seed: int) -> Iterator[tuple[str, str, float]]:
    """Yield accuracy, the critic's error, and for some seeds what it costs the gradient."""
    panel = run.sets.train._replace(model=run.learners.policy.network)
    held_out = run.sets.held_out.exact_match
    yield "accuracy", "", expected_accuracy(panel.model, held_out.solutions)
    critic = run.learners.critic
    if critic is None:
        return
    value = solution_probs(panel.model, panel.exact_match.solutions).double().numpy()
    prediction = _predictions(critic, panel)
    yield "critic_rmse", "", float(np.sqrt(np.mean((prediction - value) ** 2)))
    yield "critic_bias", "", float(np.mean(prediction - value))
    yield "reward_variance", "", float(np.mean(value * (1 - value)))
    if not critic.per_token and seed < config.noise_seeds:
        yield from _gradient_error(config, panel, prediction, run_rng(config.seed, seed))


@torch.no_grad()
def _predictions(critic: LearnedCritic, panel: Panel) -> NDArray[np.float64]:
    """Return V̂(x) at every question."""
    found, _ = critic.learner.network(panel.prompts.tokens, panel.prompts.real, last=1)
    return found[:, -1, 0].double().cpu().numpy()


def _gradient_error(
    config: "CriticConfig", panel: Panel, prediction: NDArray[np.float64], rng: torch.Generator
) -> Numbers:
    """Return what the laws need, all at the first questions: noise, E s, E σ², E e², excess."""
    some = slice(config.noise_questions)
    first = panel.first(config.noise_questions)
    moments = norm_moments(
        first.model,
        first.task,
        config.noise_outputs,
        rng=rng,
    ).moments
    square = (prediction[some] - moments.value) ** 2
    return [
        *((name, "", getattr(moments.noise, name)) for name in ("prompt", "oracle", "residual")),
        ("score_norm", "", float(moments.score_norm_squared.mean())),
        ("variance", "", float(moments.reward_variance.mean())),
        ("squared_error", "", float(square.mean())),
        ("squared_excess", "", float(np.mean(square * moments.score_norm_squared))),
        ("excess", "", float(np.mean(law.excess(moments, prediction[some])))),
    ]


def costs(config: "CriticConfig", sets: Sets) -> pd.DataFrame:
    """Count the memory of the methods' steps, then time them in turn; with both optimizers.

    The policy stays where it is, so that each step is one from there. The critic learns: as long as
    it says 0, wrong outputs have no advantage and cost nothing.
    """
    still = replace(config, learning_rate=_STILL)
    tables = []
    for name, optimizer in OPTIMIZERS.items():
        runs = {
            method: _begin(still, sets, method, seed=0, optimizer=optimizer,
                           critic_optimizer=optimizer)
            for method in config.methods()
        }  # fmt: skip
        for run in runs.values():
            run.step(1)
        numbers = {method: list(_memory(run, 2)) for method, run in runs.items()}
        seconds = {method: [] for method in runs}
        for turn in range(config.cost_steps):
            for method, run in runs.items():
                seconds[method].append(phase_seconds(_nth(run, turn + 3)))
        for method, found in numbers.items():
            found += _medians(seconds[method])
            tables.append(_table(config, method, found, iteration=0).assign(optimizer=name))
    return pd.concat(tables)


def _nth(run: _Run, iteration: int) -> Callable[[Phase], float]:
    return lambda phase: run.step(iteration, phase)


def _medians(steps: list[dict[str, float]]) -> Numbers:
    return [("seconds", part, median(step[part] for step in steps)) for part in steps[0]]


def _memory(run: _Run, iteration: int) -> Iterator[tuple[str, str, float]]:
    """Yield bytes that networks hold, those beyond them in each part of a step, and the peak."""
    networks = {"policy": run.learners.policy}
    if run.learners.critic is not None:
        networks["critic"] = run.learners.critic.learner
    held = 0
    for name, learner in networks.items():
        for what, size in held_bytes(learner).items():
            yield "bytes", f"{name} {what}", size
            held += size if what != "gradients" else 0  # these are among the working memory
    working = phase_bytes(_nth(run, iteration))
    for name, size in working.items():
        yield "bytes", f"{name} working", size
    yield "bytes", "peak", held + max(working.values())


def _table(
    config: "CriticConfig", method: "TrainingMethod", numbers: Numbers, *, iteration: int
) -> pd.DataFrame:
    rows = pd.DataFrame(list(numbers), columns=["quantity", "part", "value"])
    return rows.assign(
        task=config.posed.start,
        method=method.name,
        group_size=method.group_size,
        batch_size=config.budget // method.group_size,
        budget=config.budget,
        iteration=iteration,
    )
