"""Tables of `experiments.planning.planned_group_size` that say what a test wants them to say."""

from __future__ import annotations

import pandas as pd

PLANNED, AT_ESTIMATE = "planned", "planned at the estimate"
LAW, GAP = "law (gradient error)", "law (gap)"
EXCESS = {PLANNED: 0.1, AT_ESTIMATE: 0.3, "fixed 8": 0.2, "fixed 16": 0.4, "fixed 64": 0.8,
          "best of the sweep": 0.0, LAW: 0.05, GAP: 0.0}  # fmt: skip
WORST = 4.0


def table(tasks=("tug: a", "lake: b"), budgets=(64, 256), error=0.01, inside=1.0, **excess):
    """Two policies, two budgets, two first batches; the second law is known of the first only.

    Excess is given by rule, relative to that of the worst size.
    """
    rows = []
    for task in tasks:
        for budget in budgets:
            for iteration in (10, 20):
                for prompts in (32, 128):
                    relative = EXCESS | {
                        key.replace("_", " "): each for key, each in excess.items()
                    }
                    if task != tasks[0]:
                        relative = {rule: each for rule, each in relative.items() if rule != GAP}
                    if iteration == 10:  # all the other way round
                        relative = {rule: 1 - each for rule, each in relative.items()}
                    for rule, each in relative.items():
                        over = each - relative[PLANNED]
                        rows.append(
                            {"task": task, "optimizer": "sgd", "budget": budget,
                             "iteration": iteration, "num_prompts": prompts, "rule": rule,
                             "in_confidence_set": inside if rule in (PLANNED, LAW) else 0.0,
                             "set_size": 2, "num_sizes": 7, "best_loss": 4 * WORST,
                             "excess": WORST * each,
                             "relative_excess": each, "over_planned": WORST * over,
                             "over_planned_std_error": WORST * error if over else 0.0,
                             "lower_bound": 0.25, "refused": 0.0}
                        )  # fmt: skip
    return pd.DataFrame(rows)
