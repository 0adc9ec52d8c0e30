"""Squared bias of Algorithm 2's updates on a token bandit: every output is summed over."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.practice.bias_config import PracticalBias
from experiments.tasks import bandits as tasks
from ustat_grpo import Grpo
from ustat_grpo.bandits.token_bandit import TokenBandit, TokenSnapshot
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.laws.group_size import error_at_budget
from ustat_grpo.optimization.token_updates import (
    mean_ascent,
    mean_path,
    mean_penalty,
    weighted_scores,
)

_STEP = 1e-5  # of a central difference


@dataclass(frozen=True)
class _Update:
    """A mean update of Algorithm 2, and its bias.

    Without a ratio the advantages are vanilla's: the part of a baseline does not vanish there, and
    on language models it would take every output.
    """

    ratio: str
    penalty_weight: float
    reference: TokenSnapshot

    def bias(self, now: TokenSnapshot, old: TokenSnapshot) -> Array:
        """Return the mean of the update less that of fresh outputs."""
        bias = mean_ascent(now, old, self.ratio, old.rewards) - now.gradient
        if not self.penalty_weight:
            return bias
        on_old = mean_penalty(now, old, self.reference, "k3")
        on_new = mean_penalty(now, now, self.reference, "k3")
        return bias - self.penalty_weight * (on_old - on_new)

    def squared_bias(self, now: TokenSnapshot, old: TokenSnapshot) -> float:
        """Return ‖bias‖²."""
        bias = self.bias(now, old)
        return float(bias @ bias)


def token_rows(config: PracticalBias) -> Iterator[dict[str, Any]]:
    """Yield the rows of the app's table for a token bandit.

    Args:
        config: of the app, with a token bandit as its task.
    """
    bandit, theta = config.token_bandit.start
    old, reference = bandit.at(theta), bandit.at(np.zeros(bandit.dimension))
    budget = {"group_size": float(config.group_size), "budget": config.budget}
    shared = {
        "task": f"{config.token_bandit.name}: {config.token_bandit.num_tokens} tokens",
        "gradient_norm_squared": float(old.gradient @ old.gradient),
        "sampling_error": error_at_budget(old.noise, **budget),
    }
    weight = config.token_bandit.penalty_weight
    for ratio, penalty in (("token", 0.0), ("none", 0.0), ("sequence", 0.0), ("sequence", weight)):
        update = _Update(ratio, penalty, reference)
        cell = shared | {"ratio": ratio, "penalty_weight": penalty}
        yield from (cell | row for row in _on_exact_path(config, update))
        if ratio == "token":
            yield from (cell | row for row in _on_sampled_paths(config, update))


def _on_exact_path(config: PracticalBias, update: _Update) -> Iterator[dict[str, Any]]:
    """Follow ∇J, to which all mean paths are equal to first order where there is no penalty."""
    bandit, theta = config.token_bandit.start
    old = bandit.at(theta)
    first_order = _jacobian(bandit, theta, update) @ old.gradient
    for rate in config.rates:
        path = mean_path(
            bandit,
            theta,
            lambda now, _: now.gradient,
            learning_rate=rate,
            num_minibatches=config.num_minibatches[-1],
        )
        for number in config.num_minibatches:
            yield {
                "path": "exact",
                "num_minibatches": number,
                "learning_rate": rate,
                "squared_bias": update.squared_bias(path[number - 1], old),
                "law": (rate * (number - 1)) ** 2 * float(first_order @ first_order),
            }


def _jacobian(bandit: TokenBandit, theta: Array, update: _Update) -> Array:
    """Return the derivative of the bias at θ_old, shape (d, d)."""
    old = bandit.at(theta)
    steps = _STEP * np.eye(bandit.dimension)
    ends = [
        update.bias(bandit.at(theta + step), old) - update.bias(bandit.at(theta - step), old)
        for step in steps
    ]
    return np.transpose(ends) / (2 * _STEP)


def _on_sampled_paths(config: PracticalBias, update: _Update) -> Iterator[dict[str, Any]]:
    """Follow GRPO's own minibatches.

    The law is η²((m−1)²‖Cg‖² + (m−1) tr(CΓCᵀ)), and tr(CΓCᵀ) is the noise of the scores CW.
    """
    bandit, theta = config.token_bandit.start
    old = bandit.at(theta)
    jacobian = _jacobian(bandit, theta, update)
    seen = replace(old, token_scores=old.token_scores @ jacobian.T)
    for number in config.num_minibatches:
        size = {"group_size": float(config.group_size), "budget": config.budget / number}
        spread = error_at_budget(seen.noise, **size)
        drift = float(np.sum(seen.gradient**2))
        for rate in config.rates:
            rng = tasks.panel_rng(config.seed, f"{number} {rate}")
            squared = [
                update.squared_bias(_after(config, number, rate, rng), old)
                for _ in range(config.scale.runs)
            ]
            yield {
                "path": "sampled",
                "num_minibatches": number,
                "learning_rate": rate,
                "squared_bias": np.mean(squared),
                "std_error": np.std(squared, ddof=1) / np.sqrt(config.scale.runs),
                "runs": config.scale.runs,
                "law": rate**2 * ((number - 1) ** 2 * drift + (number - 1) * spread),
            }


def _after(
    config: PracticalBias, number: int, rate: float, rng: np.random.Generator
) -> TokenSnapshot:
    """Return the policy that the last of so many minibatches meets."""
    bandit, theta = config.token_bandit.start
    old = now = bandit.at(theta)
    shape = (config.budget // (number * config.group_size), config.group_size)
    levels = old.output_probs.cumsum(axis=-1)
    for _ in range(number - 1):
        prompts = rng.choice(len(old.prompt_probs), size=shape[0], p=old.prompt_probs)[:, None]
        drawn = np.sum(rng.random((*shape, 1)) * levels[prompts, -1:] > levels[prompts], axis=-1)
        advantages = Grpo().advantages(old.rewards[prompts, drawn])
        scores = weighted_scores(now, old, "token")[prompts, drawn]
        theta = theta + rate * np.einsum("bg,bgd->d", advantages, scores) / advantages.size
        now = bandit.at(theta)
    return now
