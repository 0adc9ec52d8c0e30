"""What all tests share: one thread for torch, reproducible hypothesis, one stream a test."""

from __future__ import annotations

import gc
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# torch reads these when it is imported, which is later than this file; so do child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# Tests start many processes. Where nothing compiled is kept, each compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest.register_assert_rewrite("support.apps")  # its checks explain themselves as those of tests do

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let slow tests be asked for."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests, visibly, unless they are asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported and collected: it stays to the end."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _torch_alike(request: pytest.FixtureRequest) -> None:
    """Keep torch on one thread, its own draws those of the test; import it for nobody else."""
    torch = sys.modules.get("torch")
    if torch is not None:
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        torch.manual_seed(_seed(request))


def _seed(request: pytest.FixtureRequest) -> int:
    """Return what neither order, choice nor folder of tests changes."""
    return zlib.crc32(f"tests/{request.node.nodeid.rpartition('/')[2]}".encode())


@pytest.fixture
def house_style() -> Iterator[None]:
    """Draw as the figures do, and close what was drawn."""
    import matplotlib.pyplot as plt

    from figures.palette import STYLE

    with plt.style.context(STYLE):
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this run of the tests, which all of its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A stream of the test's own: neither order, choice nor folder of tests changes its draws."""
    return np.random.default_rng(_seed(request))
