"""Finished jobs are known by content: damaged ones are computed anew, stale ones never unasked."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pandas as pd
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from experiments import jobs
from experiments.gradient_error import gradient_mse
from experiments.running import collect, records, runner, sources
from experiments.running.app import App
from experiments.running.parts import Parts
from experiments.running.runner import to_csv
from support.apps import app_with, call_main, configuration

ROOT = Path(__file__).parents[3]
LAW = "ustat_grpo/laws/mse.py"


class Run:
    """A job whose numbers say how often it ran, or what it was told to do."""

    def __init__(self, work=lambda: None):
        self.calls, self.work = 0, work

    def __call__(self, _config):
        self.calls += 1
        self.work()
        return pd.DataFrame({"task": ["a", "b"], "mse": [self.calls / 3, 2.0]})


def job(output, run, *overrides):
    config = configuration("gradient_mse", "task=tug_of_war", f"output={output}", *overrides)
    return app_with(run).execute(config)


@pytest.fixture
def edited(monkeypatch):
    """Let a file of the code be another one from now on."""
    genuine = sources.code_now

    def edit(file):
        monkeypatch.setattr(records, "code_now", lambda each: genuine(each) * (each != file))

    return edit


def collected(monkeypatch, capsys, *arguments):
    """Run `python -m experiments collect`; return exit code, stdout and stderr."""
    code = 0
    capsys.readouterr()
    try:
        collect.main(["gradient_mse", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


class TestDamaged:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-5],  # 0.333 becomes 0.3
            lambda data: b"",
            lambda data: b"\x00\xff" + data,
            lambda data: data.replace(b"2", b"3"),
        ],
        ids=["truncated", "empty", "binary", "edited"],
    )
    def test_is_computed_anew_and_not_collected(self, tmp_path, monkeypatch, capsys, damage):
        """Would catch: what lies at the right place taken for a result."""
        path = job(tmp_path, Run())
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        code, _, error = collected(monkeypatch, capsys, "--results", tmp_path, "--to", "none.csv")
        assert code == 2 and error.startswith(f"error: results must be whole, but {path} is not ")
        assert job(tmp_path, run := Run(), "stale=keep") == path
        assert run.calls == 1 and path.read_bytes() == whole
        assert f"{path} is not what its job wrote, computed anew\n" in capsys.readouterr().out

    def test_what_is_no_table_and_has_no_record(self, tmp_path):
        """Would catch: kept on demand though it cannot be read."""
        path = job(tmp_path, Run())
        path.write_bytes(b"")
        path.with_name("provenance.json").unlink()
        assert job(tmp_path, run := Run(), "stale=keep").read_bytes() and run.calls == 1

    def test_a_folder_is_nothing_to_replace(self, tmp_path, monkeypatch, capsys):
        path = job(tmp_path, Run())
        path.unlink()
        path.mkdir()
        message = f"{path} must be a file, got a folder: remove it"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            job(tmp_path, Run())
        found = collected(monkeypatch, capsys, "--results", tmp_path, "--to", "none.csv")
        assert found == (2, "", f"error: {message}\n")


class TestStale:
    def test_other_code(self, tmp_path, edited, capsys):
        """Would catch: a law that is doubled beside a column that is not."""
        path = job(tmp_path, Run())
        edited(LAW)
        reason = f"was made before a change of {LAW}"
        with pytest.raises(ValueError, match=f"but {reason}: --stale runs the job again, --keep-"):
            job(tmp_path, Run())
        capsys.readouterr()
        assert job(tmp_path, run := Run(), "stale=keep") == path and run.calls == 0
        kept = f"gradient_mse: {path} exists, skipped; it {reason}\n"
        assert capsys.readouterr().out == kept
        assert job(tmp_path, run := Run(), "stale=rerun") == path and run.calls == 1
        assert f"{path} {reason}, computed anew\n" in capsys.readouterr().out

    def test_code_of_other_apps_does_not_count(self, tmp_path, edited):
        """Would catch: every table stale by an edit of a figure, a ledger or another experiment."""
        job(tmp_path, Run())
        edited("experiments/convergence/limit_law.py")
        assert job(tmp_path, run := Run()) and run.calls == 0

    @pytest.mark.parametrize("record", [None, "", '{"data": 1', "[]", '{"commit": ""}'])
    def test_no_record(self, tmp_path, record):
        """As of jobs of older versions. Would catch: a traceback, or trust without a reason."""
        path = job(tmp_path, Run())
        at = path.with_name("provenance.json")
        at.unlink() if record is None else at.write_text(record)
        with pytest.raises(ValueError, match="but has no record of what it was made of: --stale "):
            job(tmp_path, Run())
        assert job(tmp_path, run := Run(), "stale=keep") and run.calls == 0

    def test_another_model_at_the_same_path(self, tmp_path):
        """Would catch: numbers of the old model for those of the new one."""
        model = tmp_path / "mine" / "low.safetensors"
        model.parent.mkdir()
        model.write_text("one")
        asked = ("task=arithmetic", f"policy.folder={model.parent}", "policy.skills=[low]")
        path = job(tmp_path / "out", Run(), *asked)
        assert job(tmp_path / "out", run := Run(), *asked) == path and run.calls == 0
        model.write_text("two")
        with pytest.raises(ValueError, match=f"was made before a change of {model}: --stale"):
            job(tmp_path / "out", Run(), *asked)
        assert job(tmp_path / "out", run := Run(), *asked, "stale=rerun") == path
        assert run.calls == 1
        model.unlink()  # what is gone was the same when the numbers were made
        assert job(tmp_path / "out", run := Run(), *asked) == path and run.calls == 0

    def test_a_model_that_changes_under_the_job(self, tmp_path):
        """Would catch: half of the numbers of one model, half of another's."""
        model = tmp_path / "low.safetensors"
        model.write_text("one")
        asked = ("task=arithmetic", f"policy.folder={tmp_path}", "policy.skills=[low]")
        with pytest.raises(ValueError, match=f"must not change while a job runs, got .*{model}"):
            job(tmp_path / "out", Run(lambda: model.write_text("two")), *asked)
        assert not (tmp_path / "out").exists()

    def test_folders_count_by_their_files(self, tmp_path):
        """A model of transformers. Would catch: a chat template added, or a file renamed."""
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / ".cache").mkdir()
        (tmp_path / "checkpoint-10").mkdir()
        first = records._digests([tmp_path])
        for ignored in (".cache/lock", "checkpoint-10/optimizer.pt"):
            (tmp_path / ignored).write_text("x")
        assert records._digests([tmp_path]) == first
        (tmp_path / "chat_template.jinja").write_text("{{ hi }}")
        second = records._digests([tmp_path])
        (tmp_path / "chat_template.jinja").rename(tmp_path / "other.jinja")
        assert len({*first.values(), *second.values(), *records._digests([tmp_path]).values()}) == 3

    def test_a_module_with_the_users_environment(self, tmp_path, monkeypatch):
        """Would catch: an environment that is mended, and its old numbers."""
        (tmp_path / "my_lake.py").write_text("one = 1")
        monkeypatch.syspath_prepend(tmp_path)
        config = configuration("gradient_mse", "task=gym", "env_id=my_lake:Lake-v0")
        assert OmegaConf.to_object(config).task.inputs == [tmp_path / "my_lake.py"]
        for unknown in ("Lake-v0", "no_such_module:Lake-v0", ":Lake-v0", "no.such:Lake-v0"):
            config.env_id = unknown
            assert OmegaConf.to_object(config).task.inputs == []

    def test_what_to_do_is_known(self, tmp_path):
        with pytest.raises(ValueError, match=r"^stale must be one of refuse, rerun, keep, got"):
            job(tmp_path, Run(), "stale=no")

    def test_collect(self, tmp_path, edited, monkeypatch, capsys):
        """Would catch: stale numbers beside those of today, in silence."""
        path, target = job(tmp_path, Run()), tmp_path / "sweep.csv"
        asked = ("--results", tmp_path, "--to", target)
        assert collected(monkeypatch, capsys, *asked)[0] == 0
        target.unlink()
        edited(LAW)
        code, _, error = collected(monkeypatch, capsys, *asked)
        assert code == 2 and not target.exists() and error.count("\n") == 1
        assert f"but {path} was made before a change of {LAW} (1 of 1 jobs): run" in error
        code, _, error = collected(monkeypatch, capsys, *asked, "--keep-stale")
        assert code == 0 and error.startswith("1 of 1 jobs are stale: ") and target.exists()

    def test_collect_into_a_job(self, tmp_path, monkeypatch, capsys):
        path = job(tmp_path, Run())
        code, _, error = collected(monkeypatch, capsys, "--results", tmp_path, "--to", path)
        assert code == 2 and error.startswith("error: --to must be another file than ")


class TestOptions:
    def test_options_of_an_app(self, tmp_path, monkeypatch, edited):
        """Would catch: Hydra's `unrecognized arguments`, or an option without effect."""
        monkeypatch.setattr(gradient_mse, "APP", app_with(run := Run()))
        asked = ("task=tug_of_war", f"output={tmp_path}")
        assert call_main(gradient_mse, *asked)[0] == 0
        edited(LAW)
        code, _, error = call_main(gradient_mse, *asked)
        assert code == 2 and error.count("\n") == 1 and error.startswith("error: ")
        code, _, error = call_main(gradient_mse, "-m", *asked)
        assert code == 1 and f"\nerror: {tmp_path}" in error and "Traceback" not in error
        assert call_main(gradient_mse, *asked, "--keep-stale")[0] == 0 and run.calls == 1
        assert call_main(gradient_mse, "--stale", *asked)[0] == 0 and run.calls == 2

    def test_the_main_job_hands_it_on(self, monkeypatch, tmp_path):
        asked = []
        experiment = jobs.Experiment(gradient_mse.APP, ("tug_of_war",))
        monkeypatch.setattr(App, "execute", lambda _app, config: asked.append(config.stale))
        monkeypatch.setattr(jobs, "EXPERIMENTS", {"gradient_mse": experiment})
        monkeypatch.setattr(jobs, "merge", lambda done: pd.DataFrame({"mse": [1]}))
        for stale in ("rerun", "keep"):
            jobs.run_all("smoke", str(tmp_path), tmp_path, stale)
        assert asked == ["rerun", "keep"]


class TestFolders:
    def test_a_failing_job_removes_its_own_only(self, tmp_path):
        """Would catch: the folders of the user gone with it."""
        output = tmp_path / "user" / "made" / "this"
        output.mkdir(parents=True)

        def fail():
            raise OSError("no room")

        with pytest.raises(OSError, match="no room"):
            job(output, Run(fail))
        assert output.is_dir() and not list(output.iterdir())
        with pytest.raises(OSError, match="no room"):
            job(output / "new" / "one", Run(fail))
        assert output.is_dir() and not list(output.iterdir())

    def test_many_look_at_once_whether_a_folder_is_writable(self, tmp_path):
        """Would catch: one probe for all, which another process takes away."""

        def look(_):
            for _ in range(50):
                runner.require_writable(tmp_path)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look, range(8)))
        assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
import pandas as pd
from pathlib import Path
from dataclasses import replace
from experiments.gradient_error import gradient_mse
from experiments.running import records
from hydra import compose, initialize_config_module

folder, limit = Path(sys.argv[1]), [10**9]
table = pd.DataFrame({"task": ["a"], "mse": [1 / 3]})

def look(event, arguments):
    if any(str(folder) in str(each) for each in arguments):
        limit[0] -= 1
        if limit[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

with initialize_config_module("experiments.conf", version_base="1.3"):
    config = compose("gradient_mse", ["task=tug_of_war", f"output={folder}", "stale=rerun"])

def job():
    app = replace(gradient_mse.APP, run=lambda _: table, prepare=lambda _: None)
    return app.execute(config)

path = job()
whole, kills = path.read_bytes(), 0
sys.addaudithook(look)
for state in ("missing", "stale"):
    for step in range(1000):
        path.unlink() if state == "missing" else path.with_name("provenance.json").unlink()
        child = os.fork()
        if not child:
            limit[0] = step
            job()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        verdict = records.examine(path.parent).state
        assert verdict in ("missing", "stale", "whole", "damaged"), verdict
        assert verdict != "whole" or path.read_bytes() == whole
        assert job() == path and path.read_bytes() == whole
        assert records.examine(path.parent).state == "whole"
        if os.waitstatus_to_exitcode(status) == 0:
            break
        kills += 1
print("kills", kills)
"""


def test_killed_at_any_moment(tmp_path):
    """SIGKILL before each of the job's dealings with the disk; the next run ends in its numbers.

    Would catch: data that come before their record, or in pieces.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 20


@dataclass
class Asked:
    """As much of a configuration as kept runs need."""

    stale: str = "refuse"


class TestParts:
    TABLE = pd.DataFrame({"mse": [1 / 3, 0.00134]})

    @pytest.fixture
    def kept(self, tmp_path):
        paths = [tmp_path / f"G{size}.csv" for size in (2, 4)]
        parts = Parts("critic", Asked())
        for path in paths:
            parts.write(path, self.TABLE)
        return paths

    def test_what_is_kept_is_read(self, kept, tmp_path):
        parts = Parts("critic", Asked())
        assert parts.missing(kept) == [] and parts.missing([*kept, tmp_path / "new"]) == [
            tmp_path / "new"
        ]
        assert to_csv(parts.read(kept[0])) == to_csv(self.TABLE)

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-3], lambda data: b"", lambda _: b"\xff"]
    )
    def test_damage(self, kept, capsys, damage):
        """Would catch: 0.001 for 0.00134 in a table, or an empty part that fails for ever."""
        kept[1].write_bytes(damage(kept[1].read_bytes()))
        parts = Parts("critic", Asked())
        with pytest.raises(ValueError, match=f"^{kept[1]} must be as it was kept"):
            parts.read(kept[1])
        assert parts.missing(kept) == [kept[1]]
        assert capsys.readouterr().out.startswith(f"{kept[1]} is damaged ")

    def test_other_code(self, kept):
        """Would catch: runs of two versions of the code in one table."""
        other = Parts("experiments.convergence.limit_law", Asked())
        for stale in ("refuse", "keep"):
            with pytest.raises(ValueError, match=f"got 2 others, such as {kept[0]}: --stale comp"):
                Parts("experiments.convergence.limit_law", Asked(stale)).missing(kept)
        with pytest.raises(ValueError, match="must be as it was kept"):
            other.read(kept[0])
        assert Parts("experiments.convergence.limit_law", Asked("rerun")).missing(kept) == kept


class TestSources:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        """Return what makes two packages of files, by name, and forgets the genuine ones."""

        def make(files):
            for name in ("ustat_grpo/__init__.py", "experiments/__init__.py", *files):
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files.get(name, ""))

        caches = (sources._sources, sources._names, sources._digests, sources.code_of)
        monkeypatch.setattr(
            sources,
            "find_spec",
            lambda name: type("Spec", (), {"submodule_search_locations": [tmp_path / name]}),
        )
        for each in caches:
            each.cache_clear()
        yield make
        for each in caches:
            each.cache_clear()

    def test_by_hand(self, tree):
        """Lazy, relative and parenthesised imports count; what a package passes on leads home.

        Would catch: a law that is not seen, and an edit of the planner that all are stale by.
        """
        passes_on = "from ustat_grpo.a import (\n    A,  # (not C)\n    B as D,\n)\n"
        tree({
            "ustat_grpo/__init__.py": f"{passes_on}from ustat_grpo.planner import plan\n",
            "ustat_grpo/a/__init__.py": "from .one import A\nfrom .two import B\n",
            "ustat_grpo/a/one.py": "import numpy\nimport ustat_grpo.deep.er\n",
            "ustat_grpo/a/two.py": "",
            "ustat_grpo/deep/__init__.py": "",
            "ustat_grpo/deep/er.py": "from ..lazy import found\n",
            "ustat_grpo/lazy/__init__.py": "def __getattr__(name): ...\n",
            "ustat_grpo/lazy/home.py": "",
            "ustat_grpo/laws/__init__.py": "from ustat_grpo.laws import mse\n",
            "ustat_grpo/laws/mse.py": "",
            "ustat_grpo/planner.py": "",
            "experiments/app.py": "from ustat_grpo import A\ndef f():\n"
                                  "    from ustat_grpo import laws\n",
            "experiments/other.py": "from ustat_grpo import D\n",
            "experiments/.#lock.py": "",
        })  # fmt: skip
        both = {"ustat_grpo/__init__.py", "experiments/__init__.py", "ustat_grpo/a/__init__.py"}
        assert set(sources.code_of("experiments.app")) == both | {
            "experiments/app.py", "ustat_grpo/a/one.py", "ustat_grpo/deep/__init__.py",
            "ustat_grpo/deep/er.py", "ustat_grpo/lazy/__init__.py", "ustat_grpo/lazy/home.py",
            "ustat_grpo/laws/__init__.py", "ustat_grpo/laws/mse.py",
        }  # fmt: skip
        assert set(sources.code_of("experiments.other")) == both | {
            "experiments/other.py", "ustat_grpo/a/two.py",
        }  # fmt: skip

    def test_of_an_app(self):
        """Also inside of functions. Would catch: laws or language models that are left out."""
        code = sources.code_of("experiments.gradient_error.gradient_mse")
        within = (
            "monte_carlo/harness",
            "monte_carlo/kernels",
            "lm/scores/known_solutions",
            "environments/mdp_errors",
        )
        for file in (LAW, *(f"ustat_grpo/{each}.py" for each in within)):
            assert file in code
        for file in (
            "ustat_grpo/planner/plan.py",
            "experiments/ledger/__main__.py",
            "experiments/jobs.py",
        ):
            assert file not in code
        assert all(sources.code_now(file) == digest for file, digest in code.items())
        assert sources.code_now("ustat_grpo/gone.py") == ""


TEXTS = {
    "dataset", "judge", "prefill", "system", "wording",
    
    "name", "reward", "start", "optimizer", "kind", "map_name", "policy", "features", "env_id",
    "dtype", "device", "stale", "output",
}  # fmt: skip
PATHS = {"path": "inputs", "train_path": "inputs", "folder": "inputs", "sweep": "inputs",
         "policies": "outputs"}  # fmt: skip


def _schemas():
    """Yield every schema of a configuration."""

    def below(found):
        for each in found.values():
            if isinstance(each, dict):
                yield from below(each)
            elif is_dataclass(kind := OmegaConf.get_type(each.node)):
                yield from (kind, *(f.type for f in fields(kind) if is_dataclass(f.type)))

    ours = (kind for kind in below(ConfigStore.instance().repo))
    yield from (kind for kind in ours if kind.__module__.startswith("experiments."))


def test_every_path_of_a_configuration_is_known():
    """A new option that is text is a path, or it is not: this list says which.

    Would catch: a file that numbers depend on and no record knows.
    """
    found = {}
    for schema in _schemas():
        for field in fields(schema):
            if "str" in re.findall(r"\w+", str(field.type)) and "dict" not in str(field.type):
                found.setdefault(field.name, set()).add(schema)
    listed = {"prompts", "skills", "prompt_sampling", "estimators", "penalties", "stop"}
    assert found.keys() - listed == TEXTS | PATHS.keys()
    for name, kind in PATHS.items():
        assert all(hasattr(schema, kind) for schema in found[name]), name
