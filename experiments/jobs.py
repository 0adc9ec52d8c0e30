"""All experiments on all their tasks, at one scale: what `make run` and `make reference` do."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from hydra import compose, initialize_config_module

from experiments.convergence import gap_bound, limit_law
from experiments.critic import critic
from experiments.gradient_error import (
    fixed_budget,
    gradient_mse,
    hard_prompts,
    pretrained_errors,
)
from experiments.group_size import (
    find_group_size,
    finite_prompts,
    group_size,
    group_size_rules,
    language_group_size,
    training_path,
)
from experiments.planning import noise_coverage, planned_group_size
from experiments.practice import implied_objective, practical_bias
from experiments.running.app import App
from experiments.running.collect import merge
from experiments.running.records import REFUSE
from experiments.running.runner import to_csv, write_atomically
from experiments.tasks import pretrain
from experiments.zoo import estimator_zoo

TASKS = ("arithmetic_choice", "bandit", "tug_of_war")
OPTIMISED = (*TASKS, "weak_tug_of_war")

_ONCE = {"smoke": ("",), "paper": ("",)}
_FEW_PROBLEMS = ("task.num_problems=100",)


class Experiment(NamedTuple):
    """An app with the jobs that it is run for.

    Args:
        app: what is run.
        tasks: one job each; "" where the app knows no tasks.
        variants: further overrides, by scale; one job each for every task, none if there is none.
            One override of one parameter that all share, or several with blanks between.
        smoke: overrides that make a task's job on the smoke scale small.
        without: variants that a task does without, by task: they would take too long.
    """

    app: App
    tasks: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]] = _ONCE
    smoke: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    without: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def overrides(self, scale: str) -> Iterator[list[str]]:
        """Yield the overrides of each job."""
        for tasks, variants in self._parts(scale):
            for task in tasks:
                smaller = self.smoke.get(task, ()) if scale == "smoke" else ()
                for variant in variants:
                    yield [*([f"task={task}"] if task else []), *variant.split(), *smaller]

    def sweep(self, scale: str) -> str:
        """Return the overrides of all jobs as those of Hydra sweeps."""
        if not any(self.tasks):
            return f"scale={scale}"
        return "; also ".join(
            _sweep(tasks, variants, scale) for tasks, variants in self._parts(scale)
        )

    def _parts(self, scale: str) -> Iterator[tuple[list[str], list[str]]]:
        """Yield tasks and variants of which every pair is a job: those of one sweep of Hydra.

        Variants of one parameter make one sweep for the tasks that have the same of them, a variant
        of several parameters makes one of its own.
        """
        plain = [variant for variant in self.variants[scale] if " " not in variant]
        found: dict[tuple[str, ...], list[str]] = {}
        for task in self.tasks:
            found.setdefault(tuple(v for v in plain if self._has(task, v)), []).append(task)
        yield from ((tasks, list(variants)) for variants, tasks in found.items() if variants)
        for variant in self.variants[scale]:
            if " " in variant:
                yield [task for task in self.tasks if self._has(task, variant)], [variant]

    def _has(self, task: str, variant: str) -> bool:
        return variant not in self.without.get(task, ())


def _sweep(tasks: Sequence[str], variants: Sequence[str], scale: str) -> str:
    """Return the overrides of a sweep; several variants are values of one parameter."""
    shown = f"task={','.join(tasks)}"
    if " " in variants[0]:
        return f"{'-m ' if len(tasks) > 1 else ''}{shown} {variants[0]} scale={scale}"
    name, _, _ = variants[0].partition("=")
    values = ",".join(variant.partition("=")[2] for variant in variants)
    varied = f" '{name}={values}'" if "[" in values else f" {name}={values}" if name else ""
    return f"-m {shown}{varied} scale={scale}"


EXPERIMENTS = {
    "pretrain": Experiment(pretrain.APP, ("",), {"smoke": (), "paper": ("",)}),
    "gradient_mse": Experiment(
        gradient_mse.APP,
        (*TASKS, "arithmetic", "frozenlake", "cartpole"),
        smoke={"arithmetic": ("task.num_questions=25", "task.num_outputs=128",
                              "task.brute_force_replications=2"),
               "arithmetic_choice": _FEW_PROBLEMS,
               "cartpole": ("task.num_outputs=128", "task.trained=[0,10]")},
    ),
    "pretrained_errors": Experiment(
        pretrained_errors.APP, ("one_digit",), {"smoke": (), "paper": ("",)}
    ),
    "fixed_budget": Experiment(fixed_budget.APP, TASKS),
    "group_size": Experiment(
        group_size.APP,
        OPTIMISED,
        {"smoke": ("budget=256",),
         "paper": ("budget=256", "budget=1024", "budget=4096")},
        smoke={"arithmetic_choice": _FEW_PROBLEMS, "bandit": ("task.group_size_targets=[16]",)},
    ),
    "sequential_group_size": Experiment(
        group_size.APP,
        ("frozenlake", "cartpole"),
        {"smoke": ("budget=64 group_size=null",),
         "paper": ("budget=256", "budget=64 group_size=null")},
        smoke={"frozenlake": ("scale.runs=20",),
               "cartpole": ("group_size=[2,8,32]", "task.iterations=[5,10]",
                            "task.num_outputs=64")},
        without={"cartpole": ("budget=256",)},
    ),
    "group_size_rules": Experiment(
        group_size_rules.APP,
        OPTIMISED,
        {"smoke": ("budgets=[256]",), "paper": ("budgets=[256,1024,4096]",)},
        smoke={"arithmetic_choice": _FEW_PROBLEMS, "bandit": ("task.group_size_targets=[16]",)},
    ),
    "limit_law": Experiment(limit_law.APP, ("tug_of_war", "tug_of_war_rank3")),
    "gap_bound": Experiment(gap_bound.APP, ("tug_of_war", "weak_tug_of_war")),
    "training_path": Experiment(
        training_path.APP, OPTIMISED, smoke={"arithmetic_choice": _FEW_PROBLEMS}
    ),
    "finite_prompts": Experiment(
        finite_prompts.APP,
        ("arithmetic_choice",),
        {"smoke": ("budget=256",), "paper": ("budget=1024", "budget=2048", "budget=4096")},
        smoke={"arithmetic_choice": _FEW_PROBLEMS},
    ),
    "implied_objective": Experiment(implied_objective.APP, ("",)),
    "estimator_zoo": Experiment(
        estimator_zoo.APP,
        (*TASKS, "success_probability"),
        smoke={"arithmetic_choice": ("task.accuracies=[0.4]", "group_size=[2,8,32]"),
               "bandit": ("task.group_size_targets=[16]", "group_size=[2,8,32]"),
               "tug_of_war": ("task.coordinates=[0]", "group_size=[2,8,32]")},
    ),
    "practical_bias": Experiment(
        practical_bias.APP,
        ("token_bandit", "arithmetic"),
        smoke={"token_bandit": ("learning_rates=[0.03,0.3]",),
               "arithmetic": ("num_questions=10", "policy.skills=[beginner]",
                              "num_minibatches=[2,4]", "learning_rates=[0.0003,0.001]", "runs=2",
                              "budget=256")},
    ),
    "hard_prompts": Experiment(
        hard_prompts.APP,
        ("arithmetic",),
        smoke={"arithmetic": ("task.num_questions=100", "num_outputs=64")},
    ),
    "critic": Experiment(
        critic.APP,
        ("arithmetic",),
        smoke={"arithmetic": ("budget=16", "group_size=[2,4]", "critic_group_size=[4]",
                              "iterations=[1,2]", "seeds=2", "noise_seeds=1", "noise_questions=10",
                              "cost_steps=1", "task.num_train=50", "task.num_questions=50")},
    ),
    "language_group_size": Experiment(
        language_group_size.APP,
        ("arithmetic",),
        {"smoke": ("budget=64",),
         "paper": ("budget=256", "budget=512", "budget=1024",
                   "budget=512 optimizer=adamw learning_rate=0.0002")},
        smoke={"arithmetic": ("group_size=[2,32]", "iterations=[2,5]", "seeds=2",
                              "noise_seeds=1", "noise_questions=50")},
    ),
    "noise_coverage": Experiment(
        noise_coverage.APP,
        ("bandit", "arithmetic"),
        {"smoke": ("",),
         "paper": ("task.group_size_targets=[3,10,30,100]",
                   "policy.skills=[beginner,intermediate,advanced]")},
        smoke={"bandit": ("task.group_size_targets=[10]", "num_prompts=[32,128]",
                          "num_outputs=[8]", "replicates=100"),
               "arithmetic": ("policy.skills=[intermediate]", "task.num_outputs=64",
                              "num_questions=25", "num_prompts=[32]", "num_outputs=[8]",
                              "replicates=100")},
        without={"bandit": ("policy.skills=[beginner,intermediate,advanced]",),
                 "arithmetic": ("task.group_size_targets=[3,10,30,100]",)},
    ),
    "planned_group_size": Experiment(
        planned_group_size.APP,
        (*OPTIMISED, "frozenlake", "cartpole", "arithmetic"),
        {"smoke": ("plans=5",), "paper": ("",)},
        smoke={"arithmetic_choice": (*_FEW_PROBLEMS, "budgets=[256]", "iterations=[10]"),
               "bandit": ("task.group_size_targets=[16]", "budgets=[256]", "iterations=[10]"),
               "tug_of_war": ("budgets=[256]", "iterations=[10]"),
               "weak_tug_of_war": ("budgets=[256]",),
               "frozenlake": ("task.objectives=[0.1]",),
               "cartpole": ("task.trained=[0]", "first_batches=[[8,8],[32,8]]"),
               "arithmetic": ("task.num_train=50", "first_batches=[[8,8],[32,8]]")},
    ),
}  # fmt: skip


APPS = {
    app.name: app
    for app in (find_group_size.APP, *(experiment.app for experiment in EXPERIMENTS.values()))
}
"""What `python -m experiments NAME` knows; `find_group_size` makes no reference."""


def run_all(
    scale: str,
    output: str,
    folder: Path,
    stale: str = REFUSE,
    names: Collection[str] | None = None,
) -> dict[str, list[Path]]:
    """Run every experiment on every task, and write one CSV an experiment into a folder.

    Args:
        scale: "smoke" or "paper".
        output: where the jobs keep their results; finished ones are not run again.
        folder: where the collected CSVs go.
        stale: what to do with finished jobs of other code or input files.
        names: the experiments to run; all if None.

    Returns:
        The jobs' own CSVs, by experiment.
    """
    return dict(run_each(scale, output, folder, stale, names))


def run_each(
    scale: str,
    output: str,
    folder: Path,
    stale: str = REFUSE,
    names: Collection[str] | None = None,
) -> Iterator[tuple[str, list[Path]]]:
    """Do what `run_all` does, and yield each experiment and its jobs' CSVs when they are done."""
    shared = [f"scale={scale}", f"output={output}", f"stale={stale}"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        for name, experiment in EXPERIMENTS.items():
            if names is not None and name not in names:
                continue
            done = [
                experiment.app.execute(compose(experiment.app.name, [*overrides, *shared]))
                for overrides in experiment.overrides(scale)
            ]
            if done:
                write_atomically(folder / f"{name}.csv", to_csv(merge(done)))
            yield name, done
