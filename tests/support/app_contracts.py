"""The smallest job of every experiment, and values that are out of range whatever the app."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from support import local_models, tiny_policies

TUG_OF_WAR = ("task=tug_of_war", "scale.runs=20")
CHOICE = ("task=arithmetic_choice", "task.num_problems=10", "task.num_candidates=4",
          "task.accuracies=[0.4]")  # fmt: skip
CART = ("task=cartpole", "task.num_prompts=2", "task.num_outputs=32", "task.num_copies=4",
        "task.trained=[0]", "task.iterations=[1,2]", "task.share_of_runs=0.02")  # fmt: skip
TRAINING = ("start=beginner", "budget=16", "group_size=[2,4]", "iterations=[1,2]", "seeds=2",
            "noise_seeds=1", "noise_questions=10")  # fmt: skip
PRETRAINING = ("settings.batch_size=50", "settings.num_steps=80", "settings.learning_rate=0.02",
               "settings.warmup=5", "settings.problems_per_kind=50", "settings.steps_per_check=10",
               "shape.width=16", "shape.num_layers=1", "shape.num_heads=2", "shape.hidden_width=32",
               "num_held_out=25", "targets.beginner=0.0001", "targets.intermediate=0.0002",
               "targets.advanced=0.0003", "policies=${output}/policies", "threads=1",
               *(each.removeprefix("task.") for each in tiny_policies.EASY))  # fmt: skip

WRONG = {
    "iterations": ("[9,3]", "[5,5]", "[]", "[0,3]"),
    "group_size": ("[]", "[0]"),
    "budgets": ("[]",),
    "batch_size": ("0",),
    "threads": ("0",),
    "scale.runs": ("1",),
    "seeds": ("1",),
    "schedule.kind": ("cosine",),
    "schedule.rate": ("0", "1e100"),
    "learning_rate": ("0",),
    "optimizer": ("lion",),
}
"""Values that no app takes which has the parameter, beside those of `wrong_values`."""


@dataclass(frozen=True)
class Contract:
    """A job that takes no time.

    Args:
        tiny: overrides that make it small.
        asks_policies: whether it needs files of language models.
        asks_model: whether it needs a model of transformers in a folder.
        timed: a query for the rows that hold seconds, which no job repeats; none if empty.
        parts: parts of its configuration whose ranges are asked of this app, and of no other.
    """

    tiny: tuple[str, ...]
    asks_policies: bool = False
    asks_model: bool = False
    timed: str = ""
    parts: tuple[str, ...] = ()

    def overrides(self, policies: Callable[[], Path]) -> tuple[str, ...]:
        """Return the overrides of the job."""
        asked = tiny_policies.asked(policies(), "beginner") if self.asks_policies else ()
        if self.asks_model:
            pytest.importorskip("transformers", reason="needs the extra llm")
            folder = policies() / "model"
            if not folder.exists():
                local_models.save_digit_writer(folder)
            asked = (*asked, f"policy.path={folder}")
        return (*asked, *self.tiny)


def wrong_values(config: Any, parts: Collection[str], name: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is out of range for every parameter with a number: one below zero, or none at all.

    Args:
        config: a configuration, checked.
        parts: those of its parts whose parameters are asked for, too.
        name: of the configuration, where it is a part itself, with a point.
    """
    for each in fields(config):
        value, inner = getattr(config, each.name), f"{name}{each.name}"
        if is_dataclass(value) and (name or each.name in parts):
            yield from wrong_values(value, parts, f"{inner}.")
        more = [w for w in WRONG.get(inner, ()) if isinstance(value, list) == w.startswith("[")]
        yield from ((inner, wrong) for wrong in (*_no_number(value), *more))


def _no_number(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(f"[{wrong}]" for wrong in _no_number(value[0])) if value else ()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ()
    return ("-1",) if isinstance(value, int) else ("nan",)


CONTRACTS: Mapping[str, Contract] = {
    "pretrain": Contract(PRETRAINING, parts=("ranges", "settings", "shape")),
    "gradient_mse": Contract(
        (*TUG_OF_WAR, "scale.precision=0.2", "group_size=[2,4]"), parts=("task", "scale")
    ),
    "pretrained_errors": Contract(
        ("policy.prompts=[plain,examples]", "task.num_questions=5", "task.num_train=5",
         "task.num_outputs=32", "task.max_tokens=3", "group_size=[4]", "whole_group_size=4",
         "whole_gradients=2", "threads=1"),
        asks_model=True,
        parts=("task", "policy"),
    ),
    "fixed_budget": Contract((*TUG_OF_WAR, "scale.precision=0.2", "budget=8")),
    "group_size": Contract((*TUG_OF_WAR, "budget=64", "group_size=[2,8]", "iterations=[5]")),
    "sequential_group_size": Contract(
        (*CART, "estimator=grpo", "budget=4", "group_size=[2,4]", "scale.runs=100"),
        parts=("task",),
    ),
    "group_size_rules": Contract((*TUG_OF_WAR, "budgets=[32]", "iterations=[5]")),
    "find_group_size": Contract((*TUG_OF_WAR, "budget=64", "iterations=[5]")),
    "limit_law": Contract(("scale.runs=10", "iterations=[20]", "task.coordinates=[0]")),
    "gap_bound": Contract(
        ("scale.runs=20", "batch_size=8", "group_size=8", "iterations=[5]", "cells=50",
         "task.coordinates=[0]")
    ),
    "training_path": Contract((*TUG_OF_WAR, "iterations=[1,4]")),
    "finite_prompts": Contract(
        (*CHOICE, "budget=16", "group_size=[2,4]", "iterations=[2]", "scale.runs=20"),
        parts=("task", "schedule"),
    ),
    "implied_objective": Contract(
        ("iterations=10", "scale.runs=20", "group_size=[8]", "penalties=[k3]",
         "num_minibatches=[1]")
    ),
    "estimator_zoo": Contract((*TUG_OF_WAR, "group_size=[2]", "batch_size=3")),
    "practical_bias": Contract(
        ("task=token_bandit", "task.num_prompts=2", "task.num_tokens=3", "task.num_values=2",
         "task.dimension=3", "task.learning_rates=[0.1]", "num_minibatches=[2]", "budget=64",
         "group_size=4", "scale.runs=2"),
        parts=("task",),
    ),
    "hard_prompts": Contract(
        ("num_outputs=32", "group_size=[4]"), asks_policies=True, parts=("task", "policy")
    ),
    "critic": Contract(
        (*TRAINING, "critic_group_size=[4]", "cost_steps=1"),
        asks_policies=True, timed="quantity == 'seconds'",
    ),
    "language_group_size": Contract(TRAINING, asks_policies=True),
    "noise_coverage": Contract(
        ("task=bandit", "task.group_size_targets=[3]", "task.num_prompts=8", "task.num_actions=4",
         "num_prompts=[8]", "num_outputs=[4]", "replicates=10"),
        parts=("task",),
    ),
    "planned_group_size": Contract(
        ("task=weak_tug_of_war", "budgets=[32]", "plans=3", "iterations=[5]", "scale.runs=20",
         "first_batches=[[8,8]]")
    ),
}  # fmt: skip
"""By the names of `experiments/jobs.py`."""
