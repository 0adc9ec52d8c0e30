"""Runs of Algorithm 1 on a language model as tables: one row a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from experiments.running.threads import use_threads
from experiments.tasks.language import Panel, Sets
from ustat_grpo import Constant, Moments, TrainingConfig
from ustat_grpo.lm.exact import expected_accuracy, solution_probs
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.known_solutions import norm_moments
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.ensemble import train_ensemble
from ustat_grpo.lm.training.model_training import OPTIMIZERS, ModelTraining
from ustat_grpo.lm.training.training import Checkpoint, Evaluate, run_rng, train
from ustat_grpo.pools.measured_moments import pool_moments

if TYPE_CHECKING:
    from experiments.group_size.language_config import LanguageGroupSize, SeededRun


def train_alone(config: "LanguageGroupSize", cell: "SeededRun") -> pd.DataFrame:
    """Train one run, and return its table."""
    use_threads(config.threads)
    sets = config.posed.training_sets()
    evaluate = _evaluate(config, sets, cell)
    rows = [_row(config, cell, evaluate(sets.train.model))]
    checkpoints = train(
        sets.train.model,
        _task(config, sets),
        _training(config, cell, sets),
        rng=_rng(config, cell),
        evaluate=evaluate,
    )
    rows += [_row(config, cell, each.measured, each) for each in checkpoints]
    return pd.DataFrame(rows)


def train_together(
    config: "LanguageGroupSize", cells: Sequence["SeededRun"]
) -> Iterator[tuple["SeededRun", pd.DataFrame]]:
    """Train runs as a few ensembles, and yield each; only the rounding is not `train_alone`'s."""
    sets = config.posed.training_sets()
    for some in _alike(config, cells):
        evaluate = _evaluate(config, sets, some[0])
        tables = [[_row(config, cell, evaluate(sets.train.model))] for cell in some]
        checkpoints = train_ensemble(
            sets.train.model,
            _task(config, sets),
            [_training(config, cell, sets) for cell in some],
            rngs=[_rng(config, cell) for cell in some],
            evaluate=evaluate,
        )
        for found in checkpoints:
            for cell, rows, each in zip(some, tables, found, strict=True):
                rows.append(_row(config, cell, each.measured, each))
        yield from zip(some, map(pd.DataFrame, tables), strict=True)


def _alike(
    config: "LanguageGroupSize", cells: Sequence["SeededRun"]
) -> Iterator[Sequence["SeededRun"]]:
    """Part the runs whose noise components are measured, by seed, from the others.

    What looks at a model draws by the seed, and is common to an ensemble.
    """
    for seed in (*range(config.noise_seeds), None):
        some = [
            cell for cell in cells if (cell.seed if _measures_noise(config, cell) else None) == seed
        ]
        if some:
            yield some


def _measures_noise(config: "LanguageGroupSize", cell: "SeededRun") -> bool:
    return cell.seed < config.noise_seeds


def _task(config: "LanguageGroupSize", sets: Sets) -> Task:
    if "oracle" not in config.estimators:  # knowing V(x) costs a pass at every step
        return sets.train.task
    solutions = sets.train.exact_match.solutions
    return replace(
        sets.train.task, value=lambda model, rows: solution_probs(model, solutions[rows])
    )


def _training(config: "LanguageGroupSize", cell: "SeededRun", sets: Sets) -> ModelTraining:
    (compared,) = config.compared.values()
    gain = compared.gain(cell.group_size)
    run = TrainingConfig(
        estimator=compared.estimator,
        batch_size=config.budget // cell.group_size,
        group_size=cell.group_size,
        num_iterations=config.iterations[-1],
        schedule=Constant(config.learning_rate / gain),
        checkpoints=config.iterations,
    )
    return ModelTraining(
        run, OPTIMIZERS[config.optimizer], rows_per_pass=sets.train.outputs_at_once
    )


def _rng(config: "LanguageGroupSize", cell: "SeededRun") -> torch.Generator:
    """Return a run's generator; the group size is no part of its key, so runs are paired."""
    return run_rng(config.seed, config.budget, cell.seed)


def _evaluate(config: "LanguageGroupSize", sets: Sets, cell: "SeededRun") -> Evaluate:
    """Return what looks at a model: accuracy always, noise components for some of the seeds."""

    def look(model: Any) -> Mapping[str, float]:
        found = {"accuracy": _accuracy(config, sets.held_out, model)}
        if _measures_noise(config, cell):
            moments = _moments(config, sets.train, model, run_rng(config.seed, cell.seed))
            # An unbiased estimate of prompt noise may fall below zero.
            noise = replace(moments, prompt_noise=max(moments.prompt_noise, 0.0)).noise
            names = ("prompt", "oracle", "residual")
            found |= {name: getattr(noise, name) for name in names}
        return found

    return look


def _accuracy(config: "LanguageGroupSize", held_out: Panel, model: Any) -> float:
    """Return the accuracy on the held-out questions: exact, or of one output to each."""
    if held_out.is_exact:
        return expected_accuracy(model, held_out.exact_match.solutions)
    rng, found = run_rng(config.seed), []
    questions = torch.arange(len(held_out.prompts), device=held_out.prompts.tokens.device)
    for rows in questions.split(held_out.outputs_at_once):
        prompts, length = held_out.prompts[rows], held_out.max_tokens
        rollouts = sample_groups(model, prompts, 1, max_tokens=length, rng=rng)
        found.append(held_out.reward(rollouts, rows))
    return float(torch.cat(found).double().nanmean())


def _moments(
    config: "LanguageGroupSize", panel: Panel, model: Any, rng: torch.Generator
) -> Moments:
    """Return the moments at the first questions of the train set."""
    panel = panel.first(config.noise_questions)
    if panel.is_exact:
        return norm_moments(
            model,
            panel.task,
            config.noise_outputs,
            rng=rng,
        ).moments
    pool = draw_pool(
        model,
        panel.task,
        config.noise_outputs,
        rng=rng,
        outputs_at_once=panel.outputs_at_once,
    )
    return pool_moments(pool).moments


def _row(
    config: "LanguageGroupSize",
    cell: "SeededRun",
    measured: Mapping[str, float],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    (estimator,) = config.estimators
    return {
        "task": config.posed.start,
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
