"""Corollary 4: GRPO's error is the oracle's, but for a factor that tends to one.

**Statement.** At one prompt, for every G ≥ 2,

    MSE_GRPO/MSE_oracle − 1 = κ/(G−1),   κ = (sσ² + ‖g‖²)/(τ − ‖g‖²).

Needs τ > ‖g‖², that is an oracle that is not exact already. The paper drops the right-hand side.

**Why.** Divide the two lines of Theorem 2 by each other.

**Note.** κ is no universal constant: τ = E‖W‖²A² is the mean of a product and sσ² the product of
means, so κ is near 1 where ‖W‖² and A² hardly depend on each other and g is small, and large where
rewards vary only among outputs of small score. An oracle can even be exact at finite G (κ = ∞):
two equally likely actions, one always right and one always wrong.
"""

from collections.abc import Iterator

from theory.claims import ENUMERATION, Claim, equal, limiting_slope, rate
from theory.enumeration import group_errors, unordered_groups
from theory.problems import two_actions
from ustat_grpo import Grpo, Oracle

ITEM = "Corollary 4"
TITLE = "the oracle property, with its constant"

_GROUP_SIZES = (8, 16, 32, 64)


def claims() -> Iterator[Claim]:
    """Yield the excess over the oracle at four group sizes, its order, and the extreme case."""
    problem = two_actions(0.3, [0.2, 1.0])
    moments = problem.moments
    leading = moments.oracle_norm_squared - moments.gradient_norm_squared
    constant = float((moments.residual_norm_squared / leading)[0])
    excesses = []
    for size in _GROUP_SIZES:
        grpo, oracle = (
            group_errors(estimator, problem, group_size=size, groups=unordered_groups)
            for estimator in (Grpo(), Oracle())
        )
        excesses.append(float(grpo[0] / oracle[0]) - 1)
        statement = f"G = {size}: GRPO's error exceeds the oracle's by κ/(G−1), a share"
        yield equal(statement, ENUMERATION, constant / (size - 1), excesses[-1])
    slope = limiting_slope(_GROUP_SIZES, excesses)
    yield rate("the share falls like G⁻¹ (not G⁻²)", -1.0, *slope, wrong=-2.0)
    yield rate("the share falls like G⁻¹ (not G⁰)", -1.0, *slope, wrong=0.0)

    exact = two_actions(0.5, [0.0, 1.0])
    error = float(group_errors(Oracle(), exact, group_size=4)[0])
    yield equal("an oracle without error: two actions, one always right", ENUMERATION, 0.0, error)
    error = float(group_errors(Grpo(), exact, group_size=4)[0])
    statement = "on that problem GRPO has (sσ² + ‖g‖²)/12 at G = 4"
    yield equal(statement, ENUMERATION, (0.25 * 0.25 + 0.25**2) / 12, error)
