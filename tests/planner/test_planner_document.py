"""`docs/planner.md`: its blocks run in order, its commands take what they write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.documents import fences, read
from ustat_grpo.command_line import main
from ustat_grpo.noise.sample_table import BATCH_COLUMN, BLOCK_COLUMNS, OUTPUT_COLUMNS

NAME = "docs/planner.md"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which the blocks ran one after the other, and the names they made."""
    place = tmp_path_factory.mktemp("planner")
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, block in enumerate(fences(read(NAME), "python")):
            exec(compile(block, f"{NAME} {number}", "exec"), namespace)
    return place, namespace


def test_both_recipes_measure_the_same_scores(ran):
    """To the rounding of 32 bits. Would catch: a mean for the sum, a norm that is not squared,
    a weight on another output."""
    _, names = ran
    scores, probes = np.concatenate(names["scores"]).astype(float), names["probes"]
    expected = np.sum((probes.weights @ scores) ** 2, axis=1)
    np.testing.assert_allclose(names["norms"], expected, rtol=1e-5, atol=1e-12)
    assert (expected > 0).mean() > 0.8


@pytest.mark.parametrize("name", ["toy.csv", "blocks.jsonl"])
def test_the_commands_of_the_recipes_print_a_plan(ran, name, capsys, monkeypatch):
    (command,) = re.findall(rf"`ustat-grpo (plan {re.escape(name)} [^`]*)`", read(NAME))
    monkeypatch.chdir(ran[0])
    assert main(command.split()) == 0
    assert "recommended" in capsys.readouterr().out


@pytest.mark.parametrize("budget", [512, 510])
def test_the_recommended_size_of_the_toy_is_near_optimal_for_certain(ran, budget, capsys):
    """Two outputs fewer change nothing. Would catch: G = 4, which spends 512 in full, at 1.035."""
    assert main(["plan", str(ran[0] / "toy.csv"), "--budget", str(budget), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["surely_near_optimal"] == {"low": 3, "high": 3}
    assert made["recommended"] == {"batch_size": 170, "group_size": 3}


def test_the_answer_is_what_the_command_prints(capsys, monkeypatch):
    (block,) = re.findall(r"<!-- plan: generated -->\n(.*?)<!-- plan: end -->", read(NAME), re.S)
    (command,) = re.findall(r"^\$ ustat-grpo (.*)$", fences(read(NAME), "console")[0], re.M)
    monkeypatch.chdir(ROOT)
    assert main(command.split()) == 0
    assert block == f"```text\n{capsys.readouterr().out}```\n"


def test_every_column_is_explained():
    explained = set(re.findall(r"`(\w+)`", read(NAME)))
    assert {*OUTPUT_COLUMNS, *BLOCK_COLUMNS, BATCH_COLUMN} <= explained


def test_every_key_is_explained(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(["plan", "docs/sample_outputs.csv", "--budget", "512", "--json"])
    explained = set(re.findall(r"`(\w+)`", read(NAME).split("## JSON")[1]))

    def keys(value):
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    found = json.loads(capsys.readouterr().out)
    assert keys(found) - {"per_prompt", "per_output"} <= explained
