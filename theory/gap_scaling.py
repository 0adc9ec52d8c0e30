"""Theorem 7, gap part: the group size of least suboptimality after n iterations.

**Statement.** Algorithm 1 with B prompts and G outputs of each has, to first order in the noise,

    E Δ_n = Δ(m_n) + a₁/B + a₂/(BG) + a₃/(BG(G−1)),

m_n the path of exact gradient ascent. At a fixed budget N = BG the best group size is therefore
1 + √(a₃/a₁), whatever N is. Near an optimum a₁ : a₃ tends to a limit, and n and the learning rate
drop out as well.

**Why.** Expand J around the path: θ_n = m_n + δ_n + noise of covariance C_n, both linear in the
covariance of one gradient estimate, Γ = prompt/B + output/(BG) + pair/(BG(G−1)). The recursions
stand in `ustat_grpo.laws.path`; a₁, a₂ and a₃ are what the three parts contribute to
−g·δ_n − ½ tr(HC_n).

**Note.** The paper bounds the gap through sup MSE, whence G* = √(c₃/c₁) with c's of the gradient's
error. The gap itself weighs noise by the Hessian along the path, so a's are not c's: the two best G
agree where all noise lies along one direction (one identifiable coordinate, at the optimum), and
differ elsewhere. Universality in N is exact to this order. Universality in n is not: early on noise
may even help (a < 0), since J is not concave there. And the first order itself is void where noise
carries θ to places of other gradient, curvature and noise: `ustat_grpo.laws.spread` averages them
over the spread of θ, which agrees to first order and differs by an estimate of the second.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from theory.claims import IDENTITY, SIMULATION, Claim, below, equal, refuted, simulated
from ustat_grpo import (
    Box,
    Constant,
    Grpo,
    TrainingConfig,
    TugOfWar,
    arithmetic_choice,
    optimize,
    random_bandit,
    train_to,
)
from ustat_grpo.bandits.expansion import expand
from ustat_grpo.laws import group_size
from ustat_grpo.laws.covariance import grpo
from ustat_grpo.laws.path import ExpectedGap, expected_gap
from ustat_grpo.laws.spread import LARGEST_SHARE, second_order

ITEM = "Theorem 7 (gap)"
TITLE = "group size of least suboptimality"

_RUNS = 1000
_BUDGETS = (256, 1024)
_SIZES = (2, 4, 8, 16, 32, 64, 128)
_CHECKPOINTS = (40, 120)
_RATE = 4.0
_CLEARLY = 4.0
"""Standard errors of a paired difference that count as a difference."""


def claims() -> Iterator[Claim]:
    """Yield the law against runs, the measured minimiser, and what is not universal."""
    problem = TugOfWar(signal=0.1)
    laws = _laws(problem)
    for budget in _BUDGETS:
        gaps = _gaps(problem, budget)
        yield from _law_of_the_mean(laws, gaps, budget)
        yield from _minimiser(laws, gaps, budget)
    yield from _where_it_holds(problem)
    yield from _rate_and_budget(problem, laws)
    yield from _not_universal()


def _laws(problem: TugOfWar, rate: float = _RATE) -> list[ExpectedGap]:
    return expected_gap(
        expand(problem.at),
        grpo,
        theta0=problem.theta(0.0),
        rates=Constant(rate).rates(_CHECKPOINTS[-1]),
        checkpoints=_CHECKPOINTS,
        best_objective=problem.at(problem.optimum).objective,
    )


def _gaps(problem: TugOfWar, budget: int) -> np.ndarray:
    """Gaps of runs that share their random numbers, shape (sizes, runs, checkpoints)."""
    gaps = []
    for size in _SIZES:
        config = TrainingConfig(
            estimator=Grpo(),
            batch_size=budget // size,
            group_size=size,
            num_iterations=_CHECKPOINTS[-1],
            schedule=Constant(_RATE),
            checkpoints=_CHECKPOINTS,
            projection=Box(-1.0, 3.0, problem.axes),
        )
        rng, start = np.random.default_rng(7), problem.theta(0.0)
        gaps.append(optimize(problem.bandit, config, theta0=start, num_runs=_RUNS, rng=rng).gap)
    return np.stack(gaps)


def _law_of_the_mean(laws: Sequence[ExpectedGap], gaps: np.ndarray, budget: int) -> Iterator[Claim]:
    for size in (4, 16, 64) if budget == max(_BUDGETS) else ():
        sample = gaps[_SIZES.index(size), :, -1]
        law = laws[-1].gap(batch_size=budget // size, group_size=size)
        yield simulated(
            f"N = {budget}, G = {size}: mean gap after {_CHECKPOINTS[-1]} iterations", law, sample
        )


def _minimiser(laws: Sequence[ExpectedGap], gaps: np.ndarray, budget: int) -> Iterator[Claim]:
    """The law's best size is never clearly beaten; the ends of the range are clearly worse."""
    for point, law in enumerate(laws):
        chosen = _best_of(law, budget)
        sample = gaps[:, :, point]
        excess = np.array([_paired(sample[_SIZES.index(chosen)], other) for other in sample])
        where = f"N = {budget}, n = {law.iteration}"
        yield below(
            f"{where}: no G measured beats the law's G = {chosen} (std. errors, paired)",
            SIMULATION,
            _CLEARLY,
            float(excess.max()),
        )
        for size in (_SIZES[0], _SIZES[-1]):
            yield below(
                f"{where}: G = {size} is worse than G = {chosen} (std. errors, paired)",
                SIMULATION,
                -_CLEARLY,
                float(excess[_SIZES.index(size)]),
            )


def _where_it_holds(problem: TugOfWar) -> Iterator[Claim]:
    """The second order is small at the lesser of the budgets above, hence at both."""
    budget, point = min(_BUDGETS), _CHECKPOINTS[0]
    shares = [
        second_order(
            expand(problem.at),
            grpo,
            theta0=problem.theta(0.0),
            rates=Constant(_RATE).rates(point),
            batch_size=budget // size,
            group_size=size,
        ).share
        for size in (_SIZES[0], _SIZES[-1])
    ]
    yield below(
        f"N = {budget}, n = {point}: the share that the first order misses at G = {_SIZES[0]} and "
        f"{_SIZES[-1]}",
        IDENTITY,
        LARGEST_SHARE,
        max(shares),
    )


def _rate_and_budget(problem: TugOfWar, laws: Sequence[ExpectedGap]) -> Iterator[Claim]:
    last = laws[-1]
    for budget in (64, 65536):
        others = np.linspace(0.5, 60, 200_000)
        gaps = last.prompt * (others + 1) + last.output + last.pair / others
        yield equal(
            f"the minimiser over G at N = {budget}",
            IDENTITY,
            last.best_group_size,
            1 + float(others[np.argmin(gaps / budget)]),
            tolerance=1e-4,
        )
    yield equal(
        "the best G is the same at twice the learning rate, late in training",
        IDENTITY,
        last.best_group_size,
        _laws(problem, 2 * _RATE)[-1].best_group_size,
        tolerance=1e-3,
    )
    noise = problem.at(problem.optimum).noise
    yield equal(
        "one identifiable coordinate: late in training it is 1 + √(c₃/c₁) at the optimum",
        IDENTITY,
        group_size.optimal(noise),
        last.best_group_size,
        tolerance=1e-3,
    )
    yield refuted(
        "late in training it is √(c₃/c₁)",
        float(np.sqrt(noise.residual / noise.prompt)),
        last.best_group_size,
    )


def _not_universal() -> Iterator[Claim]:
    """By the law alone: two tasks on which the best G for the gap depends on n."""
    bandit = arithmetic_choice(100, rng=np.random.default_rng(0))
    theta0 = train_to(bandit, 0.15)
    early, late = expected_gap(
        expand(bandit.at), grpo, theta0=theta0, rates=np.ones(60), checkpoints=(2, 60),
        best_objective=1.0,
    )  # fmt: skip
    yield refuted(
        "arithmetic task: the best G after 2 iterations is that after 60",
        early.best_group_size,
        late.best_group_size,
    )
    yield refuted(
        "arithmetic task: the best G for the gap is that for the gradient's error at the start",
        group_size.optimal(bandit.at(theta0).noise),
        late.best_group_size,
    )
    table = random_bandit(16, 8, group_size_target=16.0, rng=np.random.default_rng(0))
    (law,) = expected_gap(
        expand(table.at), grpo, theta0=np.zeros(table.dimension), rates=np.ones(20),
        checkpoints=(20,), best_objective=table.best_objective,
    )  # fmt: skip
    yield below("tabular bandit, G* = 16: early on the noise of outputs helps, a₂ < 0", IDENTITY,
                0.0, law.output)  # fmt: skip


def _best_of(law: ExpectedGap, budget: int) -> int:
    """The size among `_SIZES` with the least gap by law."""
    return min(_SIZES, key=lambda size: law.gap(batch_size=budget // size, group_size=size))


def _paired(chosen: np.ndarray, other: np.ndarray) -> float:
    """Mean difference chosen − other in its standard errors; 0 for a size against itself."""
    difference = chosen - other
    spread = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() / spread) if spread > 0 else 0.0
