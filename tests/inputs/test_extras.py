"""An installation without extras plans and computes; what an extra brings is asked for by name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ustat_grpo.inputs.extras import _EXTRAS, MissingExtraError, from_extra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def without(modules, program, *arguments):
    """Run a program where some modules are not installed."""
    command = [sys.executable, "-c", WITHOUT + program, ",".join(modules), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_every_library_is_in_its_extra():
    """Would catch: advice to install what does not bring the library."""
    extras = PROJECT["optional-dependencies"]
    for module, extra in _EXTRAS.items():
        if module == "accelerate":  # comes with trl, which cannot do without
            continue
        name = {"hydra": "hydra-core"}.get(module, module.replace("_", "-"))
        assert any(each.startswith(name) for each in extras[extra]), module
    assert not any(each.startswith(tuple(_EXTRAS)) for each in PROJECT["dependencies"])


def test_an_error_is_of_import_and_of_value():
    with pytest.raises(
        MissingExtraError, match=r"^gymnasium must be installed for this \(pip "
    ) as e:
        from_extra("gymnasium.nothing")
    assert isinstance(e.value, ImportError) and isinstance(e.value, ValueError)
    assert e.value.name == "gymnasium"


def test_a_plan_needs_no_extra():
    program = "from ustat_grpo.command_line import main; sys.exit(main(sys.argv[2:]))"
    done = without(_EXTRAS, program, "plan", "docs/sample_outputs.csv", "--budget", "512")
    assert done.returncode == 0 and "recommended" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("program", "module", "extra"),
    [
        ("import ustat_grpo.lm", "torch", "lm"),
        ("import ustat_grpo.environments", "gymnasium", "environments"),
        ("from ustat_grpo.environments import MlpPolicy", "torch", "lm"),
        ("import ustat_grpo.integrations.trl", "trl", "trl"),
        ("import experiments.__main__", "hydra", "experiments"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_extra(program, module, extra):
    done = without([module], program)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"{module} must be installed for this (pip install -e '.[{extra}]' in a checkout), "
        f"got: No module named '{module}'"
    )


def test_measuring_without_torch_takes_one_line():
    program = "from ustat_grpo.command_line import main; sys.exit(main(sys.argv[2:]))"
    done = without(["torch"], program, "measure", "--policy", "beginner", "--budget", "64")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ustat-grpo measure: error: torch must be installed for this (")
