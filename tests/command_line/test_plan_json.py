"""The plan as JSON lacks nothing that the plan in words says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.planner_cases import estimate
from ustat_grpo.command_line import main
from ustat_grpo.noise import SignSample, estimate_noise, load_sample, save_sample
from ustat_grpo.planner import Cost, PromptValues, plan

SAMPLE = Path(__file__).parents[2] / "docs" / "sample_outputs.csv"
COMMON = {"3/": "kinds of prompts", "level 5 %": "of the test", "power 80 %": "of the test",
          "10th": "percentile", "50th": "percentile", "90th": "percentile",
          "over 1e6": "seeds"}  # fmt: skip
"""Numbers of every plan, which docs/planner.md explains."""


@pytest.fixture
def blocks(tmp_path):
    """Blocks that cannot tell c₁ and c₂ from zero: no upper end, and c₂ is raised."""
    errors = np.random.default_rng(3).normal(size=(40, 3))
    errors -= errors.mean(axis=0)
    path = tmp_path / "blocks.jsonl"
    save_sample(SignSample(np.array([0.0, 0.02, 5.0]) + errors * [0.1, 0.3, 0.5]), path)
    return path


def printed(capsys, *arguments: object) -> str:
    assert main(["plan", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def unexplained(text: str, found: dict[str, Any]) -> list[str]:
    """Return the numbers of a text that are none of the JSON, rounded, and none in per cent."""
    for each in COMMON:
        text = text.replace(each, "")
    missing = []
    for number, percent in re.findall(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]\d+)?)( %)?", text):
        exponent = Decimal(number).as_tuple().exponent
        assert isinstance(exponent, int)
        unit = 10.0**exponent * (1.0 if percent else 0.5) + 1e-9  # percentages are rounded up
        known = [(100 if percent else 1) * each for each in leaves(found)]
        if not any(abs(float(number) - each) <= unit for each in known):
            missing.append(number)
    return missing


@pytest.mark.parametrize(("budget", "cost"), [(13, 3), (14, 0), (28, 1), (511, 0), (512, 0)])
def test_every_number_in_words_is_in_the_json(budget, cost, capsys):
    given = SAMPLE, "--budget", budget, "--cost-per-prompt", cost
    text, found = printed(capsys, *given), json.loads(printed(capsys, *given, "--json"))
    assert unexplained(text, found) == []


def test_every_number_in_words_is_in_the_json_where_little_is_known(blocks, capsys):
    given = blocks, "--budget", 10**6
    text, found = printed(capsys, *given), json.loads(printed(capsys, *given, "--json"))
    assert "No G above 65536" in text and found["largest_group_size"] == 65536
    assert "c₂ cannot be told from zero" in text and found["noise_taken"]["is_oracle_raised"]
    assert found["noise_taken"]["oracle"] > found["noise"]["oracle"]["value"]
    assert unexplained(text, found) == []


def test_a_lost_number_is_noticed(capsys):
    given = SAMPLE, "--budget", 13, "--cost-per-prompt", 3
    text, found = printed(capsys, *given), json.loads(printed(capsys, *given, "--json"))
    for key in ("reasons", "reasons_at_estimate", "rarest_kind"):
        assert unexplained(text, {name: found[name] for name in found if name != key})


def test_reasons_are_those_of_the_plan(capsys):
    """Where the budget leaves much over, and where one in full is preferred."""
    sample = load_sample(SAMPLE)
    noise, cost = estimate_noise(sample), Cost(per_prompt=3.0)
    made = plan(noise, budget=13, cost=cost, prompts=PromptValues.of(sample))
    found = json.loads(printed(capsys, SAMPLE, "--budget", 13, "--cost-per-prompt", 3, "--json"))
    wasteful, whole = made.decision.wasteful, made.decision_at_estimate.whole_budget
    assert wasteful is not None and whole is not None
    assert found["reasons"] == {
        "whole_budget": None,
        "wasteful": {**wasteful._asdict(), "unspent": 1 - wasteful.batch_size * (
            3 + wasteful.group_size) / 13},
    }  # fmt: skip
    assert found["reasons_at_estimate"]["whole_budget"] == {
        "passed_over": whole.passed_over._asdict(), "cost": whole.cost
    }  # fmt: skip
    assert (found["rarest_kind"], found["tolerance"]) == (3 / 64, 0.05)
    assert found["largest_group_size"] == made.largest == 10


def test_known_noise_has_no_rarest_kind():
    assert plan(estimate().components(), budget=64).rarest_kind is None
