"""Runs of Algorithm 1 on a language model as tables: one row a checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from experiments import compared
from ustat_grpo import Constant
from ustat_grpo.lm.ensemble import chosen_device, train_ensemble
from ustat_grpo.lm.exact import expected_accuracy, solution_probs
from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.measured_moments import norm_moments
from ustat_grpo.lm.optimizers import OPTIMIZERS
from ustat_grpo.lm.policy_gradient import Task
from ustat_grpo.lm.questions import Questions
from ustat_grpo.lm.training import Checkpoint, TrainingConfig, run_rng, train

if TYPE_CHECKING:
    from experiments.language_group_size import Cell, LanguageGroupSize

Evaluate = Callable[[Any], Mapping[str, float]]


def on_gpu(config: "LanguageGroupSize") -> bool:
    """Tell whether the runs of a budget train as one ensemble."""
    return chosen_device(config.policy.device).type != "cpu"


def train_alone(config: "LanguageGroupSize", cell: "Cell") -> pd.DataFrame:
    """Train one run, and return its table."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train_set, held_out = config.task.questions()
    evaluate = _evaluate(config, train_set, held_out, cell)
    model = _model(config)
    rows = [_row(config, cell, evaluate(model))]
    checkpoints = train(
        model,
        _task(config, train_set),
        _training(config, cell),
        rng=_rng(config, cell),
        evaluate=evaluate,
    )
    rows += [_row(config, cell, each.measured, each) for each in checkpoints]
    return pd.DataFrame(rows)


def train_together(
    config: "LanguageGroupSize", cells: Sequence["Cell"]
) -> Iterator[tuple["Cell", pd.DataFrame]]:
    """Train runs as one ensemble (those with noise components and those without), and yield each.

    Of what `train_alone` does, only the rounding is another.
    """
    train_set, held_out = config.task.questions()
    device = chosen_device(config.policy.device)
    task = _task(config, train_set, device)
    for some in _alike(config, cells):
        evaluate = _evaluate(config, train_set, held_out, some[0])
        model = _model(config)
        tables = [[_row(config, cell, evaluate(model))] for cell in some]
        checkpoints = train_ensemble(
            model,
            task,
            [_training(config, cell) for cell in some],
            rngs=[_rng(config, cell) for cell in some],
            evaluate=evaluate,
        )
        for found in checkpoints:
            for cell, rows, each in zip(some, tables, found, strict=True):
                rows.append(_row(config, cell, each.measured, each))
        yield from zip(some, map(pd.DataFrame, tables), strict=True)


def _alike(config: "LanguageGroupSize", cells: Sequence["Cell"]) -> Iterator[Sequence["Cell"]]:
    """Part the runs whose noise components are measured from the others."""
    for measured in (True, False):
        some = [cell for cell in cells if _measures_noise(config, cell) == measured]
        if some:
            yield some


def _measures_noise(config: "LanguageGroupSize", cell: "Cell") -> bool:
    return cell.seed < config.noise_seeds


def _model(config: "LanguageGroupSize") -> LanguageModel:
    """Return the policy at which runs begin."""
    return next(iter(config.policy.models().values()))


def _task(config: "LanguageGroupSize", train_set: Questions, device: Any = "cpu") -> Task:
    reward = getattr(train_set, config.task.reward)
    solutions = train_set.solutions

    def value(model: LanguageModel, questions: torch.Tensor) -> torch.Tensor:
        return solution_probs(model, solutions[questions])

    return Task(train_set.prompts, reward, value if "oracle" in config.estimators else None)


def _training(config: "LanguageGroupSize", cell: "Cell") -> TrainingConfig:
    (name,) = config.estimators
    gain = compared.gain(name, cell.group_size)
    return TrainingConfig(
        batch_size=config.budget // cell.group_size,
        group_size=cell.group_size,
        num_iterations=config.iterations[-1],
        max_tokens=config.task.max_tokens,
        schedule=Constant(config.learning_rate / gain),
        estimator=compared.build(config.estimators)[name],
        optimizer=OPTIMIZERS[config.optimizer],
        checkpoints=config.iterations,
    )


def _rng(config: "LanguageGroupSize", cell: "Cell") -> torch.Generator:
    """Return a run's generator; the group size is no part of its key, so runs are paired."""
    return run_rng(config.seed, config.budget, cell.seed)


def _evaluate(
    config: "LanguageGroupSize", train_set: Questions, held_out: Questions, cell: "Cell"
) -> Evaluate:
    """Return what looks at a model: accuracy always, noise components for some of the seeds."""

    def accuracy(model: Any) -> Mapping[str, float]:
        return {"accuracy": expected_accuracy(model, held_out.solutions)}

    def accuracy_and_noise(model: Any) -> Mapping[str, float]:
        asked = Questions(train_set.problems[: config.noise_questions], train_set.tokenizer)
        noise = norm_moments(
            model,
            asked.prompts,
            asked.exact_match,
            config.noise_outputs,
            max_tokens=config.task.max_tokens,
            rng=run_rng(config.seed, cell.seed),
        ).moments.noise
        components = {name: getattr(noise, name) for name in ("prompt", "oracle", "residual")}
        return accuracy(model) | components

    return accuracy_and_noise if _measures_noise(config, cell) else accuracy


def _row(
    config: "LanguageGroupSize",
    cell: "Cell",
    measured: Mapping[str, float],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    (estimator,) = config.estimators
    return {
        "task": f"{config.task.name}: {config.policy.skills[0]}",
        "estimator": estimator,
        "optimizer": config.optimizer,
        "budget": config.budget,
        "group_size": cell.group_size,
        "batch_size": config.budget // cell.group_size,
        "iteration": checkpoint.iteration if checkpoint else 0,
        "seed": cell.seed,
        "mean_reward": checkpoint.mean_reward if checkpoint else np.nan,
        **measured,
    }
