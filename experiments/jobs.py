"""All experiments on all their tasks, at one scale: what `make run` and `make reference` do."""

from pathlib import Path

from hydra import compose, initialize_config_module

from experiments import fixed_budget, gradient_mse
from experiments.collect import merge
from experiments.runner import to_csv, write_atomically

EXPERIMENTS = {
    "gradient_mse": gradient_mse.execute_config,
    "fixed_budget": fixed_budget.execute_config,
}
TASKS = ("arithmetic_choice", "bandit", "tug_of_war")


def run_all(scale: str, output: str, folder: Path) -> dict[str, list[Path]]:
    """Run every experiment on every task, and write one CSV an experiment into a folder.

    Args:
        scale: "smoke" or "paper".
        output: where the jobs keep their results; finished ones are not run again.
        folder: where the collected CSVs go.

    Returns:
        The jobs' own CSVs, by experiment.
    """
    done: dict[str, list[Path]] = {}
    with initialize_config_module("experiments.conf", version_base="1.3"):
        for name, execute in EXPERIMENTS.items():
            overrides = [f"scale={scale}", f"output={output}"]
            done[name] = [execute(compose(name, [f"task={task}", *overrides])) for task in TASKS]
            write_atomically(folder / f"{name}.csv", to_csv(merge(done[name])))
    return done
