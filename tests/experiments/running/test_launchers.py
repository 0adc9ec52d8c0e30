"""A sweep through submitit, as on a cluster: other processes, the same data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.gradient_error import gradient_mse
from support.apps import call_main

ROOT = Path(__file__).parents[3]
SWEEP = ("-m", "task=tug_of_war", "group_size=2,4", "scale.precision=0.2", "threads=1")


def data_files(folder):
    """Return the data of finished jobs by the name of the job."""
    return {path.parent.name: path.read_bytes() for path in folder.rglob("data.csv")}


@pytest.mark.slow  # joblib is asked the same in test_experiments
def test_submitit_writes_the_data_of_a_plain_sweep(tmp_path):
    """Would catch: a launcher that is not taken, or numbers that depend on the process."""
    pytest.importorskip("submitit")
    apart, plain = tmp_path / "apart", tmp_path / "plain"
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "gradient_mse", *SWEEP,
         "hydra/launcher=submitit_local", f"output={apart}"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert call_main(gradient_mse, *SWEEP, f"output={plain}")[0] == 0
    assert data_files(apart) == data_files(plain)
    assert [name.split("_")[-2] for name in sorted(data_files(apart))] == ["G2", "G4"]
    logs = list((apart / ".hydra" / ".submitit").rglob("*_log.out"))
    assert len(logs) == 2  # a process a job
    assert not (plain / ".hydra" / ".submitit").exists()
