"""What the committed references say, in groups of readings that answer one question."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from experiments.convergence import readings as convergence
from experiments.critic.readings import critic
from experiments.gradient_error import readings as gradient_error
from experiments.group_size import language_readings as language
from experiments.group_size import readings as optimised
from experiments.group_size import sequential_readings as sequential
from experiments.planning import noise_readings, plan_readings
from experiments.practice import readings as practice
from experiments.running.reading import Reading
from experiments.zoo.readings import estimator_zoo
from figures.tables import by_task

SEQUENTIAL = ("frozenlake", "cartpole")
"""Tasks whose outputs are episodes."""


@dataclass(frozen=True)
class Group:
    """Readings of one reference that answer one question.

    Args:
        experiment: the reference's name.
        title: of the table that shows them.
        readings: at least one.
    """

    experiment: str
    title: str
    readings: tuple[Reading, ...]


def all_groups(folder: Path) -> dict[str, Group]:
    """Read every reference of a folder and return all groups by key."""
    table = partial(_table, folder)
    normalised, plain, divergence = practice.implied_objective(table("implied_objective"))
    gaps = table("group_size")
    return {
        **_gradient_errors(table),
        **_group_sizes(table, gaps),
        "gap_bound": _group("gap_bound", "The gap and its bounds",
                            convergence.bounds(table("gap_bound"))),
        "limit_law": _group("limit_law", "The limit law of the gap",
                            convergence.limit_law(table("limit_law"))),
        "practical_bias": _group("practical_bias", "What re-using outputs costs",
                                 practice.practical_bias(table("practical_bias"))),
        "normalised_runs": _group("implied_objective", "Runs with normalised advantages",
                                  [normalised]),
        "plain_runs": _group("implied_objective", "Runs without normalisation", [plain]),
        "penalised_runs": _group("implied_objective", "Runs with the K3 penalty", [divergence]),
        "critic": _group("critic", "GRPO beside an actor with a critic", critic(table("critic"))),
        "zoo": _group("estimator_zoo", "Every estimator that trainers ship",
                      estimator_zoo(table("estimator_zoo"))),
        "coverage": _group("noise_coverage", "Intervals of the noise and of G*",
                           noise_readings.coverage(table("noise_coverage"))),
        "plans": _group("planned_group_size", "Training by the plan",
                        plan_readings.plans(table("planned_group_size"))),
    }  # fmt: skip


def _table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def _group(experiment: str, title: str, readings: Iterable[Reading]) -> Group:
    return Group(experiment, title, tuple(readings))


def _gradient_errors(table: Callable[[str], pd.DataFrame]) -> dict[str, Group]:
    tasks, budget = by_task(table("gradient_mse")), table("fixed_budget")
    episodes = {task: tasks.pop(task) for task in SEQUENTIAL}
    exact = gradient_error.agreement(pd.concat(tasks.values()))
    spoken, read = tasks.pop("arithmetic"), []
    for task, rows in tasks.items():
        read += [gradient_error.order(task, rows), gradient_error.closeness(task, rows)]
    read.append(gradient_error.decrease("arithmetic_choice", tasks["arithmetic_choice"]))
    read += gradient_error.figure_four(spoken)
    return {
        "agreement": _group("gradient_mse", "Measured errors against the laws",
                            [exact, gradient_error.brute_force(spoken)]),
        "errors": _group("gradient_mse", "Gradient error against group size", read),
        "episode_errors": _group("gradient_mse", "Gradient error of whole episodes",
                                 gradient_error.errors(episodes)),
        "fixed_budget": _group("fixed_budget", "Gradient error at a fixed budget",
                               [gradient_error.agreement(budget),
                                gradient_error.best_group_size(budget)]),
        "policies": _group("pretrain", "The language models of our own",
                           language.policies(table("pretrain"))),
        "hard_prompts": _group("hard_prompts", "Vanilla against GRPO, question by question",
                               gradient_error.hard_prompts(table("hard_prompts"))),
    }  # fmt: skip


def _group_sizes(table: Callable[[str], pd.DataFrame], gaps: pd.DataFrame) -> dict[str, Group]:
    return {
        "gap_law": _group("group_size", "The law of the mean gap (Algorithm 1)",
                          [optimised.law_of_the_gap(gaps)]),
        "gap_order": _group("group_size", "Vanilla against GRPO after training",
                            optimised.order_of_gaps(gaps)),
        "every_budget": _group("group_size", "The best G at every budget N (as in Table 2)",
                               optimised.universal_in_budget(gaps)),
        "every_iteration": _group("group_size", "The best G at every n (as in Figure 5)",
                                  optimised.universal_in_iterations(gaps)),
        "path": _group("training_path", "The best G along training",
                       optimised.along_the_path(table("training_path"))),
        "rules": _group("group_size_rules", "Rules for G",
                        [optimised.rules(table("group_size_rules"))]),
        "finite_prompts": _group("finite_prompts", "Finite sets of prompts",
                                 optimised.finite_prompts(table("finite_prompts"))),
        "language": _group("language_group_size", "Accuracy of small transformers",
                           language.group_sizes(table("language_group_size"))),
        "episodes": _group("sequential_group_size", "Training on whole episodes",
                           sequential.group_sizes(table("sequential_group_size"))),
    }  # fmt: skip
