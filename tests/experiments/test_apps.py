"""What holds for every experiment of the table of jobs, at a scale that takes no time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.gradient_error import gradient_mse
from experiments.jobs import APPS, EXPERIMENTS
from experiments.running.commands import INTERRUPTED
from experiments.running.parts import Parts
from experiments.running.runner import provenance
from support import tiny_policies
from support.app_contracts import CONTRACTS, wrong_values
from support.apps import (
    app_with,
    call_main,
    checked,
    configuration,
    in_this_process,
    refusal,
)

REFERENCE = Path(__file__).parents[2] / "experiments" / "reference"
FILES = {"config.yaml", "data.csv", "provenance.json"}


def experiment(name):
    """Return the app of a line of the table; an app that makes no reference has its own name."""
    return EXPERIMENTS[name].app if name in EXPERIMENTS else APPS[name]


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Where files of small language models are."""
    made = []

    def folder():
        made[:] = made or [tiny_policies.save_all(tmp_path_factory.mktemp("policies"))]
        return made[0]

    return folder


@pytest.fixture(scope="module", params=CONTRACTS)
def tiny(request, policies, tmp_path_factory):
    """A small job that is done: its name, app, overrides, data, and a folder for others."""
    name = request.param
    app, overrides = experiment(name), CONTRACTS[name].overrides(policies)
    folder = tmp_path_factory.mktemp(name)
    config = configuration(app.name, *overrides, f"output={folder / 'done'}")
    with in_this_process():
        path = app.execute(config)
    return SimpleNamespace(
        name=name, app=app, overrides=overrides, config=config, path=path, folder=folder
    )


@pytest.fixture(autouse=True)
def _in_this_process():
    with in_this_process():
        yield


def test_every_experiment_has_a_contract():
    """Would catch: an app that nobody holds to what all of them promise."""
    assert CONTRACTS.keys() == EXPERIMENTS.keys() | APPS.keys()


@pytest.mark.parametrize("name", APPS)
def test_it_says_in_a_line_what_it_does(name):
    """What `python -m experiments --help` lists."""
    summary = APPS[name].summary
    assert re.fullmatch(r".{20,100}[.?]", summary), summary


def test_a_job_is_three_files_in_a_folder_that_can_be_read(tiny):
    """The table says nothing of where, when and how fast it was made; the record beside it does."""
    job, task = tiny.path.parent, tiny.config.get("task")
    assert re.fullmatch(r"[\w.=-]+_[0-9a-f]{10}", job.name), job.name
    assert task is None or job.name.startswith(task.name)
    assert {path.name for path in job.iterdir()} - {"runs"} == FILES
    record = json.loads((job / "provenance.json").read_text())
    assert record.keys() > provenance(0.0).keys()
    assert not record.keys() & set(pd.read_csv(tiny.path))


def test_columns_are_those_of_the_reference(tiny):
    """Readings and figures are written for that one. Would catch: a column that is renamed."""
    if tiny.name in EXPERIMENTS:
        wanted = pd.read_csv(reference_or_skip(tiny.name, REFERENCE), nrows=0)
        assert list(pd.read_csv(tiny.path)) == list(wanted)


def reference_or_skip(name, folder):
    """Return the path of a reference; one that was never made is skipped, a lost one is not."""
    path = folder / f"{name}.csv"
    made = json.loads((folder / "provenance.json").read_text())["commits"]
    if name not in made and not path.exists():
        pytest.skip(f"{name} has no reference yet: commit, then python -m experiments.rerun {name}")
    return path


def test_only_a_reference_that_was_never_made_is_skipped(tmp_path):
    """Would catch: a new experiment that fails for want of one, and a lost file that passes."""
    (tmp_path / "provenance.json").write_text('{"commits": {"lost": "abc"}}')
    with pytest.raises(pytest.skip.Exception, match=r"python -m experiments\.rerun new$"):
        reference_or_skip("new", tmp_path)
    assert reference_or_skip("lost", tmp_path) == tmp_path / "lost.csv"


def test_a_finished_job_computes_nothing(tiny, capsys):
    """Would catch: work before it is known that nothing is to be done."""

    def work(*_):
        raise AssertionError("must not be done again")

    written = tiny.path.stat().st_mtime_ns
    assert app_with(work, work, tiny.app).execute(tiny.config) == tiny.path
    assert tiny.path.stat().st_mtime_ns == written
    assert capsys.readouterr().out == f"{tiny.app.name}: {tiny.path} exists, skipped\n"


def test_a_killed_job_is_resumed_to_the_same_bytes(tiny, monkeypatch):
    """The kill leaves no table, no half of one, and the parts that are finished.

    Would catch: a part computed twice, draws that go on from run to run, the clock in a table.
    """
    config = configuration(tiny.app.name, *tiny.overrides, f"output={tiny.folder / 'killed'}")
    kept = killed_after_a_part(tiny.app, config, monkeypatch)
    assert bool(kept) == (tiny.path.parent / "runs").exists()
    path, again = tiny.app.execute(config), {each: each.stat().st_mtime_ns for each in kept}
    assert again == kept
    timed = CONTRACTS[tiny.name].timed
    if timed:
        tables = [pd.read_csv(each).query(f"not ({timed})") for each in (path, tiny.path)]
        pd.testing.assert_frame_equal(*tables)
    else:
        assert path.read_bytes() == tiny.path.read_bytes()


def killed_after_a_part(app, config, monkeypatch):
    """Kill a job where it is long: after its first part, if it keeps any; return what is kept."""
    written = []

    def write(parts, path, table):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        genuine(parts, path, table)

    def work(*arguments):
        if app.keeps_parts:
            app.run(*arguments)
        raise KeyboardInterrupt

    genuine = Parts.write
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Parts, "write", write)
        app_with(work, app=app).execute(config)
    assert not list(Path(config.output).rglob("data.csv"))
    return {path: path.stat().st_mtime_ns for path in written}


@pytest.mark.parametrize("name", CONTRACTS)
def test_ranges(name, policies, tmp_path):
    """A number out of its range takes one line, which names parameter, requirement and value."""
    app, contract = experiment(name), CONTRACTS[name]
    overrides = contract.overrides(policies)
    wrong = dict.fromkeys(wrong_values(checked(app.name, *overrides), contract.parts))
    assert wrong
    for parameter, value in wrong:
        said = refusal(app, tmp_path / "none", *overrides, f"{parameter}={value}")
        last = parameter.rpartition(".")[2].removesuffix("s")  # a list is refused for one of it
        names = rf"error: .*\b{last}s? (.* )?must .*, got .*\n"
        assert re.fullmatch(names, said), f"{parameter}={value}: {said}"


def test_a_killed_sweep_is_resumed_by_the_same_command(tmp_path, monkeypatch):
    """The kill comes in the second job; the first is kept, the second leaves no table."""
    genuine = gradient_mse.APP

    def work(config):
        if config.group_size == [4]:
            raise KeyboardInterrupt
        return genuine.run(config)

    command = ("-m", *CONTRACTS["gradient_mse"].tiny[:-1], "group_size=2,4", f"output={tmp_path}")
    with monkeypatch.context() as patched:
        patched.setattr(gradient_mse, "APP", app_with(work, app=genuine))
        assert call_main(gradient_mse, *command)[0] == INTERRUPTED
    (first,) = tmp_path.rglob("data.csv")
    written = first.stat().st_mtime_ns
    code, out, _ = call_main(gradient_mse, *command)
    assert code == 0 and out.count("exists, skipped") == 1
    assert first.stat().st_mtime_ns == written
    assert len(list(tmp_path.rglob("data.csv"))) == 2
