"""What the measured gaps say about the limit law and the bounds."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.running.reading import STANDARD_ERRORS, Reading, columns, plain


def limit_law(data: pd.DataFrame) -> Iterator[Reading]:
    """Is n·Δ_n distributed as the weighted χ² after the last iteration, and what does β² do?"""
    last = data[data["iteration"] == data.groupby("task")["iteration"].transform("max")]
    for task, rows in last.groupby("task", sort=False):
        each = rows.groupby("estimator", sort=False).first()
        mean, law, noise = columns(each, "mean", "law_mean", "mean_std_error")
        shown = [
            f"{name}: {row['mean']:.4f} ± {row['mean_std_error']:.4f} (law {row['law_mean']:.4f}), "
            f"KS p = {row['ks_p_value']:.2f}"
            for name, row in each.iterrows()
        ]
        agrees = bool((np.abs(mean - law) <= STANDARD_ERRORS * noise).all())
        agrees &= bool((each["ks_p_value"] > 1e-3).all())
        law, wrong = columns(rows, "law", "law_without_beta_squared")
        factor = np.median(law / wrong)
        yield Reading(
            f"{plain(str(task))}: nΔ_n follows Σ w_k χ²₁, n = {rows['iteration'].max()}",
            "mean Σ w_k; Kolmogorov–Smirnov p above 0.001",
            "; ".join(shown) + f"; without β² the law is off by a factor of {factor:.0f}",
            "refined: erratum 1" if agrees and factor > 1 else "refuted",
        )


def bounds(data: pd.DataFrame) -> Iterator[Reading]:
    """Does the gap stay below Lemma 6's bounds at every checkpoint, and how loose are they?"""
    for (task, schedule), rows in data.groupby(["task", "schedule"], sort=False):  # pyright: ignore
        safe = rows["gap"] + STANDARD_ERRORS * rows["std_error"]
        last = rows.query("iteration == iteration.max()")
        kept = (safe <= rows["bound"]) & (safe <= rows["recursive_bound"])
        loose = (last["bound"] / last["gap"]).median()
        tighter = (last["recursive_bound"] / last["gap"]).median()
        yield Reading(
            f"{plain(str(task))}, {schedule} rate: the gap is below the bound at every checkpoint",
            f"{len(rows)} of {len(rows)} means + {STANDARD_ERRORS:g} std. errors",
            f"{np.count_nonzero(kept)} of {len(rows)}; at the last one the bound "
            f"is {loose:.3g} times the gap, iterated step by step {tighter:.3g} times",
            "reproduced" if bool(np.all(kept)) else "refuted",
        )
