"""Squared bias of Algorithm 2's updates on language models that know one right output.

Only the solution y* earns a reward, so means over all outputs are sums over questions. With
p = π_old(y*) the mean update is E[p Σ_t ρ_t ∇log π_θ(y*_t)], where ρ_t = μ_t, or 1 without
a ratio (vanilla's advantages); ∇J has Π_s μ_s in its place.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from experiments.practice.bias_config import PracticalBias
from experiments.running.threads import use_threads
from experiments.tasks import bandits as tasks
from experiments.tasks.language import Panel
from ustat_grpo import Grpo, Practice, TrainingConfig
from ustat_grpo.laws.group_size import error_at_budget
from ustat_grpo.lm.exact import objective_gradient
from ustat_grpo.lm.scores.known_solutions import norm_moments
from ustat_grpo.lm.scoring import Answers, Gradient, log_probs, squared_norm, token_weighted_score
from ustat_grpo.lm.training.model_training import ModelTraining
from ustat_grpo.lm.training.training import train
from ustat_grpo.optimization.schedules import Constant

_STEP = 1e-6
"""Length of the step, in units of ∇J, along which the law's constant is measured."""
_OUTPUTS = 64
"""Outputs to each question, for E‖W‖² in the sampling error."""


def language_rows(config: PracticalBias, panels: Mapping[str, Panel]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the app's table for every policy.

    Args:
        config: of the app, with the task `arithmetic`.
        panels: the policies with its questions, by name.
    """
    use_threads(config.threads or 1)
    for name, panel in track(panels.items(), config.task.name):
        panel = panel.first(config.num_questions)
        old = _Old.of(panel)
        shared = {
            "task": name,
            "penalty_weight": 0.0,
            "gradient_norm_squared": squared_norm(objective_gradient(old.model, old.solutions)),
            "sampling_error": _sampling_error(config, name, panel),
        }
        yield from (shared | row for row in _on_exact_path(config, old))
        yield from (shared | row for row in _on_sampled_paths(config, name, panel, old))


@dataclass(frozen=True, eq=False)
class _Old:
    """π_old in double precision, and what it makes of the solutions.

    Args:
        model: the policy.
        solutions: y*, one a question.
        log_probs: log π_old(y*_t), shape (P, L).
    """

    model: Any
    solutions: Answers
    log_probs: Tensor

    @classmethod
    def of(cls, panel: Panel) -> "_Old":
        """Return a panel's policy."""
        solutions = panel.exact_match.solutions
        model: Any = deepcopy(panel.model)
        model.double()
        with torch.no_grad():
            found = log_probs(model, solutions)
        return cls(model, solutions, found)

    @property
    def value(self) -> Tensor:
        """V(x) = π_old(y*), shape (P, 1)."""
        return self.log_probs.sum(dim=-1, keepdim=True).exp()

    def bias(self, now: Any, ratio: str) -> Gradient:
        """Return the mean update at θ less ∇J(θ)."""

        def excess(rows: slice, _: Answers, found: Tensor) -> Tensor:
            drift = found - self.log_probs[rows, : found.shape[1]]
            whole = drift.sum(dim=-1, keepdim=True)
            own = drift if ratio == "token" else torch.zeros_like(drift)
            # ρ_t − Π_s μ_s without the rounding of a difference of near numbers.
            gap = -torch.expm1(whole - own) * own.exp()
            return self.value[rows] * gap / len(self.solutions)

        return token_weighted_score(now, self.solutions, excess)


def _moved(model: Any, gradient: Gradient, step: float) -> Any:
    """Return a model at θ + step·gradient."""
    moved = deepcopy(model)
    with torch.no_grad():
        for parameter, direction in zip(moved.parameters(), gradient, strict=True):
            parameter += step * direction
    return moved


def _on_exact_path(config: PracticalBias, old: _Old) -> Iterator[dict[str, Any]]:
    """Follow ∇J, to which all mean paths are equal to first order."""
    gradient = objective_gradient(old.model, old.solutions)
    near = _moved(old.model, gradient, _STEP)
    slopes = {ratio: squared_norm(old.bias(near, ratio)) / _STEP**2 for ratio in ("token", "none")}
    for rate in config.rates:
        now = old.model
        for number in range(2, config.num_minibatches[-1] + 1):
            now = _moved(now, objective_gradient(now, old.solutions), rate)
            for ratio, slope in slopes.items() if number in config.num_minibatches else ():
                yield {
                    "ratio": ratio,
                    "path": "exact",
                    "num_minibatches": number,
                    "learning_rate": rate,
                    "squared_bias": squared_norm(old.bias(now, ratio)),
                    "law": (rate * (number - 1)) ** 2 * slope,
                }


def _on_sampled_paths(
    config: PracticalBias, name: str, panel: Panel, old: _Old
) -> Iterator[dict[str, Any]]:
    """Follow GRPO's own minibatches, with token ratios: all but the last of an iteration."""
    for number in config.num_minibatches:
        for rate in config.rates:
            iteration = TrainingConfig(
                estimator=Grpo(),
                batch_size=config.budget // config.group_size * (number - 1) // number,
                group_size=config.group_size,
                num_iterations=1,
                schedule=Constant(rate),
                practice=Practice(num_minibatches=number - 1, ratio="token"),
            )
            training = ModelTraining(iteration, rows_per_pass=panel.outputs_at_once)
            squared = []
            for run in range(config.runs):
                rng = _rng(config, f"{name} {number} {rate} {run}")
                model = deepcopy(old.model)
                (_,) = train(model, panel.task, training, rng=rng, evaluate=lambda _: {})
                squared.append(squared_norm(old.bias(model, "token")))
            yield {
                "ratio": "token",
                "path": "sampled",
                "num_minibatches": number,
                "learning_rate": rate,
                "squared_bias": np.mean(squared),
                "std_error": np.std(squared, ddof=1) / np.sqrt(config.runs),
                "runs": config.runs,
            }


def _sampling_error(config: PracticalBias, name: str, panel: Panel) -> float:
    """Return GRPO's error with all outputs of an iteration."""
    measured = norm_moments(
        panel.model,
        panel.task,
        _OUTPUTS,
        rng=_rng(config, name),
    )
    size = float(config.group_size)
    return measured.estimate(
        lambda moments: error_at_budget(moments.noise, group_size=size, budget=config.budget)
    )[0]


def _rng(config: PracticalBias, key: str) -> torch.Generator:
    seed = int(tasks.panel_rng(config.seed, key).integers(2**62))
    return torch.Generator().manual_seed(seed)
