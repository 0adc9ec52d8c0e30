"""The table of gradient errors: its columns, whatever they were measured by, and their laws.

A simulation of minibatches, a pool of outputs and whole minibatches of a language model fill it;
readings and figures read it by these names.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.tasks.subject import ErrorsAsked
from ustat_grpo import Moments
from ustat_grpo.pools.measured_moments import MeasuredMoments

SIMULATION, POOL, BRUTE_FORCE = "simulation", "pool", "brute force"


class GradientError(NamedTuple):
    """A row: the error of one estimator at one group size on one panel, beside its law.

    Args:
        task: the panel, 'task: policy'.
        estimator: its name in a configuration.
        batch_size: B, prompts of a minibatch.
        group_size: G, outputs of each.
        replications: minibatches, or groups of each prompt, that were measured.
        mse: E‖ĝ − ∇J‖², measured.
        std_error: of `mse`.
        bias_norm: ‖mean ĝ − ∇J‖, NaN where no minibatch is summed.
        law: of `mse`.
        law_std_error: of `law`, whose moments may be measured; 0 where they are exact.
        evidence: what `mse` was measured by, `SIMULATION`, `POOL` or `BRUTE_FORCE`.
    """

    task: str
    estimator: str
    batch_size: int
    group_size: int
    replications: int
    mse: float
    std_error: float
    bias_norm: float = np.nan
    law: float = np.nan
    law_std_error: float = 0.0
    evidence: str = SIMULATION


COLUMNS = list(GradientError._fields)


def simulated(
    table: pd.DataFrame, asked: ErrorsAsked, panel: str, moments: Moments
) -> pd.DataFrame:
    """Return a simulator's table of one panel, each error beside its law.

    Args:
        table: the columns from `estimator` to `bias_norm`.
        asked: the estimators with their laws.
        panel: its name.
        moments: exact.
    """
    law = [
        asked.compared[name].law(moments, size, asked.batch_size)
        for name, size in zip(table["estimator"], table["group_size"], strict=True)
    ]
    labelled = table.assign(task=panel, law=law, law_std_error=0.0, evidence=SIMULATION)
    return labelled.reindex(columns=COLUMNS)


def measured(
    rows: Iterable[GradientError], asked: ErrorsAsked, moments: MeasuredMoments
) -> pd.DataFrame:
    """Return measured errors as a table, each beside its law and the law's error bar.

    Args:
        rows: without laws.
        asked: the estimators with their laws.
        moments: measured, too.
    """

    def beside_its_law(row: GradientError) -> GradientError:
        compared = asked.compared[row.estimator]
        law, std_error = moments.estimate(
            lambda exact: compared.law(exact, row.group_size, asked.batch_size)
        )
        return row._replace(law=law, law_std_error=std_error)

    return pd.DataFrame([beside_its_law(row) for row in rows], columns=COLUMNS)
