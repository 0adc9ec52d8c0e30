"""The jobs of an experiment, one by one and as the one Hydra sweep that the ledger prints."""

from __future__ import annotations

import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments import jobs
from experiments.group_size import group_size
from experiments.jobs import EXPERIMENTS, Experiment
from experiments.running.app import App

SCALES = ("smoke", "paper")
VARIED = Experiment(
    group_size.APP,
    ("tug_of_war", "bandit"),
    {"smoke": ("",), "paper": ("budget=64", "budget=256")},
)


def swept(sweep):
    """Return the overrides of each job of a sweep, as Hydra's own sweeper makes them."""
    jobs = []
    for part in sweep.split("; also "):
        several = part.startswith("-m ")
        (batch,) = BasicSweeper.split_arguments(
            OverridesParser.create().parse_overrides(shlex.split(part.removeprefix("-m "))),
            max_batch_size=None,
        )
        assert several or len(batch) == 1
        jobs += [list(job) for job in batch]
    return jobs


class TestOverrides:
    def test_one_job_a_task(self):
        assert list(VARIED.overrides("smoke")) == [["task=tug_of_war"], ["task=bandit"]]

    def test_one_job_a_variant_of_every_task(self):
        assert list(VARIED.overrides("paper")) == [
            ["task=tug_of_war", "budget=64"],
            ["task=tug_of_war", "budget=256"],
            ["task=bandit", "budget=64"],
            ["task=bandit", "budget=256"],
        ]

    def test_without_variants_scales_differ_in_nothing(self):
        plain = Experiment(VARIED.app, ("bandit",))
        assert [list(plain.overrides(scale)) for scale in SCALES] == [[["task=bandit"]]] * 2

    def test_smaller_on_the_smoke_scale_only(self):
        small = VARIED._replace(smoke={"bandit": ("seeds=2", "runs=3")})
        assert list(small.overrides("smoke")) == [
            ["task=tug_of_war"],
            ["task=bandit", "seeds=2", "runs=3"],
        ]
        assert list(small.overrides("paper")) == list(VARIED.overrides("paper"))

    def test_no_task_and_no_job(self):
        alone = Experiment(VARIED.app, ("",), {"smoke": (), "paper": ("",)})
        assert [list(alone.overrides(scale)) for scale in SCALES] == [[], [[]]]

    def test_a_variant_of_several_overrides(self):
        adamw = VARIED._replace(tasks=("bandit",), variants={"paper": ("a=1", "a=1 b=2")})
        assert list(adamw.overrides("paper")) == [
            ["task=bandit", "a=1"],
            ["task=bandit", "a=1", "b=2"],
        ]


class TestSweep:
    def test_by_hand(self):
        assert VARIED.sweep("smoke") == "-m task=tug_of_war,bandit scale=smoke"
        assert VARIED.sweep("paper") == "-m task=tug_of_war,bandit budget=64,256 scale=paper"

    def test_no_task(self):
        alone = Experiment(VARIED.app, ("",), {"smoke": (), "paper": ("",)})
        assert alone.sweep("paper") == "scale=paper"
        assert swept(alone.sweep("paper")) == [["scale=paper"]]

    def test_variants_of_several_overrides_come_after_the_sweep(self):
        variants = {"paper": ("budget=64", "budget=256", "budget=64 optimizer=adamw")}
        sweep = VARIED._replace(tasks=("bandit",), variants=variants).sweep("paper")
        assert sweep == (
            "-m task=bandit budget=64,256 scale=paper; "
            "also task=bandit budget=64 optimizer=adamw scale=paper"
        )
        assert swept(sweep) == [
            ["task=bandit", "budget=64", "scale=paper"],
            ["task=bandit", "budget=256", "scale=paper"],
            ["task=bandit", "budget=64", "optimizer=adamw", "scale=paper"],
        ]

    def test_a_list_is_one_value(self):
        """Would catch: a list taken for several jobs, or cut at its commas."""
        listed = VARIED._replace(variants={"paper": ("budgets=[64,256]",)})
        assert swept(listed.sweep("paper")) == [
            [task, "budgets=[64,256]", "scale=paper"] for task in ("task=tug_of_war", "task=bandit")
        ]

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("name", EXPERIMENTS)
    def test_hydra_makes_the_same_jobs_of_it(self, name, scale):
        """The ledger's command repeats what `make reference` did, in the same order.

        What makes the smoke scale small is not for a user to repeat.
        """
        experiment = EXPERIMENTS[name]._replace(smoke={})
        wanted = [[*each, f"scale={scale}"] for each in experiment.overrides(scale)]
        too_long = ("pretrain", "pretrained_errors")
        assert wanted or (name in too_long and scale == "smoke")
        assert not wanted or swept(experiment.sweep(scale)) == wanted
        assert len({tuple(job) for job in wanted}) == len(wanted)


class TestRunAll:
    def test_every_job_at_the_scale_into_the_folder(self, monkeypatch, tmp_path):
        """Jobs that write down what they were asked for, in place of jobs that work."""
        asked = []

        def execute(config):
            asked.append((config.task.name, config.budget, config.scale.name, config.output))
            path = tmp_path / f"{len(asked)}.csv"
            path.write_text(f"task,budget\n{config.task.name},{config.budget}\n")
            return path

        monkeypatch.setattr(App, "execute", lambda _app, config: execute(config))
        monkeypatch.setattr(jobs, "EXPERIMENTS", {"group_size": VARIED})
        done = jobs.run_all("paper", "somewhere", tmp_path / "tables")
        wanted = [(task, size) for task in VARIED.tasks for size in (64, 256)]
        assert asked == [(*each, "paper", "somewhere") for each in wanted]
        assert done == {"group_size": [tmp_path / f"{number}.csv" for number in (1, 2, 3, 4)]}
        table = (tmp_path / "tables" / "group_size.csv").read_text()
        assert table == "".join(
            ["task,budget\n", *(f"{task},{budget}\n" for task, budget in wanted)]
        )

    def test_an_experiment_without_jobs_has_no_table(self, monkeypatch, tmp_path):
        """Would catch: an empty table, or the smoke scale stopped by it."""
        none = VARIED._replace(variants={"smoke": ()})
        monkeypatch.setattr(jobs, "EXPERIMENTS", {"pretrain": none})
        assert jobs.run_all("smoke", "somewhere", tmp_path / "tables") == {"pretrain": []}
        assert not (tmp_path / "tables").exists()
