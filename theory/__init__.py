"""The paper's results, each beside its derivation and its proof by computation.

One chapter a result. A chapter's docstring states the result, its assumptions and why it is true;
its `claims()` computes both sides. `python -m theory` checks every claim, `python -m theory NAME`
those of one chapter. Reference: arXiv 2603.01162.
"""

import os
from importlib import import_module
from types import ModuleType

# Our matrices are small: BLAS on several threads slows them down.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

CHAPTERS = (
    "u_statistic",
    "group_error",
    "minibatch_error",
    "oracle_property",
    "baseline_optimality",
    "baseline_counterexamples",
    "vanilla_crossover",
    "group_size",
    "noise_components",
    "suboptimality_gap",
    "gap_scaling",
    "limit_distribution",
    "limit_weights",
    "baseline_weights",
    "group_advantages",
    "normalised_u_statistic",
    "practical_error",
    "practical_penalty",
    "practical_variance",
    "implied_objective",
    "episode_moments",
    "errata",
)
"""Names of the chapters, in the order of the paper."""


def chapters(*names: str) -> tuple[ModuleType, ...]:
    """Return chapters in the order of the paper, all of them unless some are named.

    A chapter is a module with `ITEM: str` (the paper's label, "Theorem 2"), `TITLE: str` and
    `claims() -> Iterator[Claim]`, the same claims in the same order on every call.

    Raises:
        ValueError: if there is no chapter of a name.
    """
    unknown = [name for name in names if name not in CHAPTERS]
    if unknown:
        raise ValueError(f"chapter must be one of {', '.join(CHAPTERS)}, got {unknown[0]!r}")
    wanted = [name for name in CHAPTERS if not names or name in names]
    return tuple(import_module(f"theory.{name}") for name in wanted)
