"""Every path, module, target, symbol, command and example in the documents is real."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import re
import shlex
import sys
from itertools import product

import gymnasium
import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import ustat_grpo.environments  # noqa: F401  (symbols are looked up in it, ids registered)
from experiments.jobs import EXPERIMENTS, TASKS
from experiments.ledger.layout import PAGES
from experiments.running.commands import as_overrides
from support.apps import checked
from support.documents import ROOT, fences, prose, read
from ustat_grpo import command_line

NAMES = (
    "README.md", "CONTRIBUTING.md", "paper_repro.md", "docs/environments.md",
    "docs/estimators.md", "docs/language_models.md", "docs/planner.md", "docs/sweeps.md",
    "docs/trl.md", "docs/ustatistics.md",
    *(f"docs/repro/{page.name}.md" for page in PAGES),
)  # fmt: skip
FOLDERS = (
    "ustat_grpo", "theory", "experiments", "figures", "benchmarks", "tests",
    "docs", ".ci",
)  # fmt: skip
METRICS = ("noise", "group_size", "groups")  # what is logged is named like a path
GENERATED = (".venv", "models", "results")  # made by the commands, never committed
APPS = tuple({experiment.app.name for experiment in EXPERIMENTS.values()})

every_document = pytest.mark.parametrize("name", NAMES)


def inline(text):
    """Return what stands in single backticks outside of code blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))


def anchors(text):
    """Return what GitHub calls the headings of a text, character by character."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.M)
    kept = ["".join(c for c in each.lower() if c.isalnum() or c in " -_") for each in headings]
    return [each.replace(" ", "-") for each in kept]


def commands(text):
    """Return all shell commands: lines of console blocks, and inline code that starts as one."""
    lines = [
        line.strip().removeprefix("$ ")
        for language in ("console", "bash", "sh", "shell")
        for block in fences(text, language)
        for line in block.splitlines()
    ]
    return [
        each.split("  #")[0]
        for each in [*lines, *inline(text)]
        if re.match(r"python |make |\.", each)
    ]


def paths(text):
    """Return inline code that looks like a path of this repository."""
    for code in inline(text):
        if re.fullmatch(r"[\w.\-/*]+", code) and (
            "/" in code or re.search(r"\.(py|md|toml|txt|csv|yaml|mplstyle)$", code)
        ):
            yield code


def hydra_commands(text):
    """Return (app, overrides) of every documented run of an app."""
    for command in commands(text):
        words = shlex.split(command)
        if words[:3] == ["python", "-m", "experiments"] and words[3:] and words[3] in APPS:
            yield words[3], tuple(word for word in as_overrides(words[4:]) if word != "-m")


DOCUMENTED = sorted({each for name in NAMES if (ROOT / name).exists()
                     for each in hydra_commands(read(name))})  # fmt: skip

LAUNCHERS = sorted({tuple(each for each in overrides if each.startswith("hydra"))
                    for _, overrides in DOCUMENTED} - {()})  # fmt: skip


def jobs(overrides):
    """Return the overrides of all jobs of a sweep."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    lists = [[]]
    for override in parsed:
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        else:
            values = [override.get_value_element_as_str()]
        key = override.get_key_element()
        lists = [[*rest, f"{key}={value}"] for rest in lists for value in values]
    return lists


def run(block, namespace):
    """Run a block of Python, or check what a session prints; return the names that it leaves."""
    if ">>>" not in block:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, "example", "exec"), namespace)
        return namespace
    session = doctest.DocTestParser().get_doctest(block, namespace, "example", None, 0)
    complaints = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(session, out=complaints.write, clear_globs=False).failed
    assert not failed, complaints.getvalue()
    return session.globs


class TestLooks:
    """Would catch: a search that finds nothing, and so nothing that is missing."""

    def test_paths(self):
        text = "`a/b.py` and `pyproject.toml`, `x = 1/2`, `f(x)`, `a`\n```\n`c/d.py`\n```\n"
        assert list(paths(text)) == ["a/b.py", "pyproject.toml"]

    def test_commands(self):
        text = "`make run`, `python -m a.b x=1`\n```console\n$ python -m c\n```\n`f(x)`"
        assert commands(text) == ["python -m c", "make run", "python -m a.b x=1"]

    def test_anchors(self):
        assert anchors("# A b: `c`\n## It's G*, 1.5 (x)\n```\n# no\n```\n") == [
            "a-b-c", "its-g-15-x",
        ]  # fmt: skip

    def test_jobs(self):
        found = jobs(("task=bandit,tug_of_war", "group_size=2,4", "seed=3"))
        wanted = product(("bandit", "tug_of_war"), (2, 4))
        assert found == [[f"task={t}", f"group_size={g}", "seed=3"] for t, g in wanted]

    def test_there_is_something_to_check(self):
        assert len(DOCUMENTED) >= 4
        assert len({app for app, _ in DOCUMENTED}) > 10
        assert sum(len(list(paths(read(name)))) for name in NAMES) > 20


class TestEveryDocument:
    def test_all_are_looked_at(self):
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
        found |= {path.name for path in ROOT.glob("*.md")}
        assert found - {"CHANGELOG.md"} == set(NAMES)  # which names what is gone

    @every_document
    def test_paths_exist(self, name):
        text = read(name)
        for path in paths(text):
            if path.split("/")[0] in GENERATED:
                continue
            if re.fullmatch(r"ustat_grpo/\w+-v\d+", path):  # an environment
                assert path in gymnasium.registry, f"{name}: {path}"
                continue
            if path.split("/")[0] in METRICS:
                assert f'"{path}"' in read("ustat_grpo/integrations/trl.py"), f"{name}: {path}"
                continue
            if f"no `{path}`" in text:  # named because we do not want it
                assert not any(list((ROOT / folder).rglob(path)) for folder in FOLDERS), path
            elif "/" in path and path.split("/")[0] not in FOLDERS:
                pytest.fail(f"{name}: `{path}` looks like a path, but begins with no folder here")
            elif "/" in path:
                assert list(ROOT.glob(path.rstrip("/"))), f"{name}: {path}"
            else:  # the name of a file alone: wherever it lies
                files = [ROOT / path, *(f for each in FOLDERS for f in (ROOT / each).rglob(path))]
                assert any(file.exists() for file in files), f"{name}: {path}"

    @every_document
    def test_links_lead_somewhere(self, name):
        """To a file that is there and, where a place in it is named, to a heading there."""
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(name))):
            if target.startswith(("http://", "https://")):
                continue
            file, _, place = target.partition("#")
            path = (ROOT / name).parent.joinpath(file) if file else ROOT / name
            assert path.exists(), f"{name}: {target}"
            assert not place or place in anchors(path.read_text("utf-8")), f"{name}: {target}"

    @every_document
    def test_modules_exist(self, name):
        """`python -m a.b` can be run: it is a module, or a package with a `__main__`."""
        for command in commands(read(name)):
            words = shlex.split(command)
            if words[:2] == ["python", "-m"] and "NAME" not in words[2]:
                found = importlib.util.find_spec(words[2])
                assert found is not None, command
                if found.submodule_search_locations is not None:
                    assert importlib.util.find_spec(f"{words[2]}.__main__"), command
                if words[2] == "theory":
                    from theory import CHAPTERS

                    named = [word for word in words[3:] if not word.startswith("[")]
                    assert set(named) <= {*CHAPTERS, "NAME"}, command

    @every_document
    def test_make_targets_exist(self, name):
        targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
        assert {"run", "test", "check", "figures", "ledger", "bench", "help"} <= targets
        for command in commands(read(name)):
            words = command.split()
            if words[0] == "make":
                named = {word for word in words[1:] if "=" not in word}
                assert named and named <= targets, command

    @every_document
    def test_symbols_exist(self, name):
        """Everything written as `ustat_grpo.….X`, `laws.X`, …, or as the name of a class."""
        text = read(name)
        for code in inline(text) + fences(text):
            for symbol in re.findall(r"(?<![\w./])ustat_grpo(?:\.\w+)+", code):
                if not re.search(rf"{re.escape(symbol)}[\w/]*/|import", code):
                    assert _resolves(symbol), f"{name}: {symbol}"
        for code in inline(text):
            if re.fullmatch(r"(laws|ustatistics)(\.\w+)+", code):
                assert _resolves(f"ustat_grpo.{code}"), f"{name}: {code}"

    def test_every_estimator_is_in_the_readme(self):
        from experiments.running.estimators import _COMPARED

        mentioned = set(inline(read("README.md")))
        assert {kind.__name__ for kind, *_ in _COMPARED.values()} <= mentioned

    @every_document
    def test_imports_work(self, name):
        for block in fences(read(name), "python"):
            code = block if ">>>" not in block else _source(block)
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names)


class TestCommands:
    @pytest.mark.parametrize(("app", "overrides"), DOCUMENTED)
    def test_every_run_of_an_app_has_a_configuration(self, app, overrides):
        """Composed and checked as a run would, every job of a sweep; only the work is left out."""
        for job in jobs(each for each in overrides if not each.startswith("hydra")):
            assert checked(app, *job).scale.name

    @pytest.mark.parametrize("launcher", LAUNCHERS)
    def test_every_launcher_can_be_had(self, launcher):
        """With what is set of it. Would catch: a plugin that no installation brings."""
        with initialize_config_module("experiments.conf", version_base="1.3"):
            config = compose("gradient_mse", list(launcher), return_hydra_config=True)
        (name,) = (each.split("=")[1] for each in launcher if each.startswith("hydra/launcher"))
        assert name.replace("submitit_", "") in config.hydra.launcher._target_.lower()

    @every_document
    def test_options_of_the_console_script_are_known(self, name):
        """Every `ustat-grpo` in a document is parsed as it stands; argparse exits if it cannot."""
        text = read(name)
        written = re.findall(r"`(ustat-grpo (?:plan|measure) [^`]+)`", prose(text))
        written += re.findall(r"^\$ (ustat-grpo .*)$", text, re.M)
        for command in written:
            words = shlex.split(command)[1:]
            if "--help" not in words:
                assert command_line._parser().parse_args(words).command == words[0]


@pytest.fixture
def beside_the_documents(monkeypatch, tmp_path):
    """Work in a folder of the test's own, where the documents lie, too: examples write files."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_the_documents")
class TestExamples:
    @pytest.mark.parametrize("number", range(len(fences(read("README.md"), "python"))))
    def test_each_of_the_readme_runs_alone(self, number):
        """Would catch: a block that takes a name from another, which a reader did not run."""
        run(fences(read("README.md"), "python")[number], {})

    @pytest.mark.parametrize("name", [name for name in NAMES[1:] if fences(read(name), "python")])
    def test_those_of_a_page_run_one_after_the_other(self, name):
        namespace: dict[str, object] = {}
        for block in fences(read(name), "python"):
            namespace = run(block, namespace)


class TestReadme:
    @pytest.mark.parametrize("block", ["minutes", "speed"])
    def test_generated_blocks_are_filled(self, block):
        (found,) = re.findall(
            rf"<!-- {block}: generated -->\n(.*?)<!-- {block}: end -->", read("README.md"), re.S
        )
        lines = found.splitlines()
        assert len(lines) >= 4 and all(line.startswith("|") for line in lines)
        if block == "minutes":
            for command in ("`make run`", "`make test`"):
                (row,) = [line for line in lines if command in line]
                assert re.search(r"\| \d+\.\d \|$", row)

    def both_sides(self):
        (found,) = [block for block in fences(read("README.md"), "python") if "measured" in block]
        return found

    def test_an_example_prints_both_sides_equal(self):
        """Measured and exact, |z| ≤ 4 with the error bar that it prints (one digit: 50 % more)."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(self.both_sides(), {})
        lines = re.findall(r"measured (\S+) ± (\S+), exact (\S+)", printed.getvalue())
        assert len(lines) >= 2
        for measured, std_error, exact in lines:
            assert abs(float(measured) - float(exact)) <= 4 * 1.5 * float(std_error)
            assert float(std_error) < 0.01 * float(exact)

    def test_this_example_is_ten_lines(self):
        lines = [line for line in self.both_sides().splitlines() if line]
        assert len(lines) - sum("import" in line for line in lines) <= 10

    def test_the_picture_of_the_plan_is_of_todays_page(self):
        """Would catch: a page or a sample that changed, and a picture that did not."""
        where = importlib.util.spec_from_file_location("plan_page", ROOT / "docs" / "plan_page.py")
        plan_page = importlib.util.module_from_spec(where)
        where.loader.exec_module(plan_page)
        with Image.open(plan_page.PICTURE) as picture:
            assert picture.text["Source"] == plan_page.digest(), "python docs/plan_page.py"
            assert picture.size == plan_page.SIZE

    def test_every_task_is_explained(self):
        assert set(TASKS) <= set(inline(read("README.md")))

    def test_every_folder_is_explained(self):
        """Those in the table of what is here."""
        explained = {code.rstrip("/") for code in inline(read("README.md")) if code.endswith("/")}
        assert {"ustat_grpo", "theory", "experiments", "figures", "benchmarks"} <= explained


def _resolves(symbol):
    """Return whether a dotted name is a module, or an attribute of one."""
    parts = symbol.split(".")
    thing = sys.modules[parts[0]]
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part):
            try:
                importlib.import_module(".".join(parts[:index]))
            except ModuleNotFoundError:
                return False
        thing = getattr(thing, part)
    return True


def _source(session):
    """Return the source of an interactive session."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(session))
