"""A user's script runs, and a strict type checker knows every type in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")
FAULTS = {
    "reportArgumentType": 'plan("a sample", budget=256)',
    "reportAttributeAccessIssue": "Grpo().advantage",
    "reportMissingParameterType": "def untyped(x): return x",  # in strict mode only
}
"""Lines with an error, by the rule of pyright that they break."""


def checked(folder: Path) -> list[dict[str, str]]:
    """Return what pyright says of the files of a folder, to which the library is a package."""
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"],
        cwd=folder,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    if not result.stdout.startswith("{"):
        pytest.skip(f"pyright does not start: {(result.stdout + result.stderr)[-200:]}")
    return json.loads(result.stdout)["generalDiagnostics"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyright") is None, reason="needs the extra test")
def test_types_are_known_to_a_strict_checker(tmp_path):
    """Would catch: a public function without a type, and a checker that looks at nothing."""
    (tmp_path / "user_script.py").write_text(SCRIPT.read_text(encoding="utf-8"))
    (tmp_path / "faults.py").write_text(
        "\n".join(["from ustat_grpo import Grpo, plan", *FAULTS.values()])
    )
    said = checked(tmp_path)
    of_user = [each["message"] for each in said if each["file"].endswith("user_script.py")]
    assert of_user == []
    rules = {each["rule"] for each in said if each["file"].endswith("faults.py")}
    assert rules >= set(FAULTS)


def test_it_runs(capsys):
    import user_script

    user_script.main()
    assert "recommended" in capsys.readouterr().out
