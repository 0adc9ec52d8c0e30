"""How much does re-using outputs cost? Squared bias of Algorithm 2's updates, exactly.

Of m minibatches of outputs of π_old the last meets the policy after m − 1 updates. Its mean is
compared with ∇J there: with token ratios, with none, with the sequence ratio, and with a K3 penalty
on old tokens. The path to it is that of exact gradient steps, or that of sampled minibatches. Try

    python -m experiments practical_bias task=token_bandit
    python -m experiments practical_bias task=arithmetic policy.skills=[beginner] runs=2
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from experiments.practice.bias_config import PracticalBias
from experiments.practice.token_bias import token_rows
from experiments.running.app import App
from experiments.tasks.bandits import TokenBanditTask
from experiments.tasks.kinds import for_kind
from experiments.tasks.language import Arithmetic
from experiments.tasks.policies import PosedTask

COLUMNS = [
    "task", "ratio", "penalty_weight", "path", "num_minibatches", "learning_rate", "squared_bias",
    "std_error", "runs", "law", "gradient_norm_squared", "budget", "group_size", "sampling_error",
]  # fmt: skip


def run(config: PracticalBias) -> pd.DataFrame:
    """Return one row a policy, ratio, path, number of minibatches and learning rate."""
    rows = list(_rows(config))
    table = pd.DataFrame(rows).assign(budget=config.budget, group_size=config.group_size)
    return table.reindex(columns=COLUMNS)


def _rows(config: PracticalBias) -> Iterator[dict[str, Any]]:
    """Build the policies of the task, and yield the rows of each."""
    return for_kind(config.task, _ROWS, "task must be token_bandit or arithmetic")(config)


def _language_rows(config: PracticalBias) -> Iterator[dict[str, Any]]:
    from experiments.practice.language_bias import language_rows

    return language_rows(config, PosedTask(config.task, config.policy).panels())


_ROWS = {TokenBanditTask: token_rows, Arithmetic: _language_rows}


def describe(config: PracticalBias) -> str:
    """Return the readable part of the results folder's name."""
    return f"{config.task.name}_N{config.budget}_m{config.num_minibatches[-1]}"


def prepare(config: PracticalBias) -> None:
    """Build the task, or raise."""
    _rows(config)


APP = App("practical_bias", PracticalBias, run, describe, prepare)
