"""One step of Algorithm 1 against the laws, two against enumeration, its draws against theirs."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from support.compared import ESTIMATORS
from support.problems import cells, random_problem
from support.training_options import optimized
from ustat_grpo import (
    Constant,
    ConstantBaseline,
    Decay,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    SoftmaxBandit,
    gradient,
    laws,
)
from ustat_grpo.estimators import NOTHING, SideInformation

GRADED = (-1.0, 0.5, 2.0)
PROBLEMS = {
    "tabular": {},
    "tabular, three levels": {"num_actions": 5, "reward_levels": GRADED},
    "features": {"num_prompts": 4, "num_actions": 3, "dimension": 5},
    "features, three levels": {"dimension": 2, "reward_levels": GRADED},
}
BATCH, SIZE, RATE, RUNS = 3, 3, 0.25, 40_000


@dataclass(frozen=True)
class Standardised:
    """(Z − Z̄)/(std + ε): not affine, hence tabulated by the number of successes."""

    epsilon: float = 0.1

    def advantages(self, rewards, side=NOTHING):
        centred = rewards - rewards.mean(axis=-1, keepdims=True)
        return centred / (rewards.std(axis=-1, keepdims=True) + self.epsilon)


@cache
def problem(name):
    """The same one to all, which then looks for its best objective once."""
    return random_problem(np.random.default_rng(42), **PROBLEMS[name])


def one_step(bandit, theta0, estimator, batch_size=BATCH, group_size=SIZE, **options):
    """ĝ of many runs, shape (R, d): (θ₁ − θ₀)/η."""
    options = {"num_runs": RUNS, "schedule": Constant(RATE)} | options
    runs = optimized(
        bandit, estimator, batch_size=batch_size, group_size=group_size, num_iterations=1,
        theta0=theta0, rng=np.random.default_rng(0), **options,
    )  # fmt: skip
    return (runs.theta[:, 0] - theta0) / RATE


def z_scores(sample, expected=0.0):
    """(mean over runs − expected)/(its standard error), entry by entry."""
    spread = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    return (sample.mean(axis=0) - expected) / np.maximum(spread, 1e-13)


def squared_errors(gradients, center):
    return ((gradients - center) ** 2).sum(axis=1)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("known", ESTIMATORS)
def test_one_step_has_the_mean_and_the_error_of_the_laws(name, known):
    """Errors of 1 % of E‖ĝ − g‖², and 3 % of ∇J, would be seen; see the mutants below."""
    bandit, theta0 = problem(name)
    snapshot, (estimator, law) = bandit.at(theta0), ESTIMATORS[known]
    gain = laws.mse.group_mean_gain(SIZE) if known == "group_mean" else 1.0
    errors = law(snapshot.moments, group_size=SIZE)
    expected = laws.mse.minibatch(errors, snapshot.moments, batch_size=BATCH, gain=gain)
    gradients = one_step(bandit, theta0, estimator)
    assert abs(z_scores(gradients, gain * snapshot.gradient)).max() <= 4
    assert abs(z_scores(squared_errors(gradients, snapshot.gradient), expected)) <= 4


def test_wrong_laws_of_one_step_are_rejected():
    """G² for G(G−1), half the residual (erratum 4), no prompt noise, 1/(G−1), c₁ not over B."""
    bandit, theta0 = problem("features")
    snapshot, noise = bandit.at(theta0), bandit.at(theta0).noise
    errors = squared_errors(one_step(bandit, theta0, Grpo()), snapshot.gradient)
    oracle, outputs = noise.prompt / BATCH + noise.oracle / (BATCH * SIZE), BATCH * SIZE
    residual = noise.residual / (outputs * (SIZE - 1))
    wrong = {
        "G² for G(G−1)": oracle + noise.residual / (outputs * SIZE),
        "half the residual": oracle + residual / 2,
        "no prompt noise": oracle - noise.prompt / BATCH + residual,
        "c₁ not over B": oracle + noise.prompt * (1 - 1 / BATCH) + residual,
        "G − 1 for G": oracle + noise.oracle / (outputs * (SIZE - 1)) - noise.oracle / outputs,
    }
    assert abs(z_scores(errors, oracle + residual)) <= 4
    for name, mutant in wrong.items():
        assert abs(z_scores(errors, mutant)) > 4, name
    biased = one_step(bandit, theta0, GroupMean())
    assert abs(z_scores(biased, snapshot.gradient)).max() > 4  # the gain (G−1)/G forgotten


def enumerated_step(bandit, theta0, estimator):
    """E ĝ and E‖ĝ‖² of a minibatch, over every prompt and every group of outputs."""
    mean, second, snapshot = 0.0, 0.0, bandit.at(theta0)
    for x, weight in enumerate(bandit.prompt_probs):
        for group in itertools.product(cells(bandit, theta0, x), repeat=SIZE):
            probs, scores, rewards = (np.array(part) for part in zip(*group, strict=True))
            estimate = gradient(estimator, scores, rewards, SideInformation(snapshot.value[x]))
            mean = mean + weight * probs.prod() * estimate
            second += weight * probs.prod() * (estimate @ estimate)
    return mean, (second - mean @ mean) / BATCH + mean @ mean


def test_one_step_of_a_tabulated_estimator_by_enumeration():
    """Would catch: rows of the table off by one, an ε of 0.2 for 0.1."""
    bandit, theta0 = random_problem(np.random.default_rng(7), 3, 3)
    gradients = one_step(bandit, theta0, Standardised())
    mean, second = enumerated_step(bandit, theta0, Standardised())
    assert abs(z_scores(gradients, mean)).max() <= 4
    assert abs(z_scores(squared_errors(gradients, 0.0), second)) <= 4
    _, mutant = enumerated_step(bandit, theta0, Standardised(0.2))
    assert abs(z_scores(squared_errors(gradients, 0.0), mutant)) > 4


def enumerated_objective(bandit, estimator, theta, rates, stale=None):
    """E J(θ_n) for B = 1 and G = 2, over every sequence of prompts and groups.

    `stale` is a parameter at which all outputs are drawn and scored instead: a mutant.
    """
    if len(rates) == 0:
        return bandit.at(theta).objective
    total, here = 0.0, theta if stale is None else stale
    snapshot = bandit.at(here)
    for x, weight in enumerate(bandit.prompt_probs):
        for group in itertools.product(cells(bandit, here, x), repeat=2):
            probs, scores, rewards = (np.array(part) for part in zip(*group, strict=True))
            step = gradient(
                estimator,
                scores,
                rewards,
                SideInformation(snapshot.value[x], snapshot.optimal_baseline[x]),
            )
            rest = enumerated_objective(
                bandit, estimator, theta + rates[0] * step, rates[1:], stale
            )
            total += weight * probs.prod() * rest
    return total


@cache
def two_prompts(dimension):
    return random_problem(np.random.default_rng(2), 2, 2, dimension=dimension)


@pytest.mark.parametrize("estimator", [Grpo(), Oracle(), OptimalBaseline(), Standardised()])
@pytest.mark.parametrize("dimension", [None, 2], ids=["tabular", "features"])
def test_two_iterations_against_enumeration(estimator, dimension):
    """1024 paths. Would catch: a policy, a V or a rate that is not renewed; see the mutants."""
    bandit, theta0 = two_prompts(dimension)
    schedule = Decay(5.0, 1.0)
    runs = optimized(
        bandit, estimator, batch_size=1, group_size=2, num_iterations=2, schedule=schedule,
        theta0=theta0, num_runs=400_000, keep_theta=False, rng=np.random.default_rng(1),
    )  # fmt: skip
    rates = schedule.rates(2)
    exact = partial(enumerated_objective, bandit, estimator, theta0)
    assert abs(z_scores(runs.objective, exact(rates))) <= 4
    if estimator == Grpo() and dimension == 2:
        assert abs(z_scores(runs.objective, exact(rates, stale=theta0))) > 4
        assert abs(z_scores(runs.objective, exact(rates[::-1]))) > 4
        assert abs(z_scores(runs.objective, exact(rates[[0, 0]]))) > 4


@pytest.mark.parametrize("sampling", ["without_replacement", "epochs"])
@pytest.mark.parametrize("batch_size", [3, 4])
def test_prompts_without_replacement_have_less_prompt_noise(sampling, batch_size):
    """c₁(P−B)/(B(P−1)), none at B = P = 4. Would catch: c₁/B, and (P−B)/P."""
    bandit, theta0 = problem("features")
    bandit = dataclasses.replace(bandit, prompt_probs=None)
    snapshot, noise = bandit.at(theta0), bandit.at(theta0).noise
    gradients = one_step(bandit, theta0, Grpo(), batch_size, 40, prompt_sampling=sampling)
    errors = squared_errors(gradients, snapshot.gradient)
    outputs = noise.oracle / 40 + noise.residual / (40 * 39)
    expected = (noise.prompt * (4 - batch_size) / 3 + outputs) / batch_size
    assert abs(z_scores(gradients, snapshot.gradient)).max() <= 4
    assert abs(z_scores(errors, expected)) <= 4
    assert abs(z_scores(errors, (noise.prompt + outputs) / batch_size)) > 4
    if batch_size < 4:
        mutant = (noise.prompt * (4 - batch_size) / 4 + outputs) / batch_size
        assert abs(z_scores(errors, mutant)) > 4


# What was drawn, read off θ₁ − θ₀: no two outcomes move a tabular θ alike. The rate is so small
# that the policy stays.
DICE = SoftmaxBandit.tabular(
    [0.0, 1.0],
    [[[0.2, 0.8], [0.6, 0.4]], [[0.5, 0.5], [0.7, 0.3]], [[0.9, 0.1], [0.35, 0.65]]],
    [0.5, 0.3, 0.2],
    [[0.0, 0.4], [-0.3, 0.2], [0.7, 0.0]],
)
TINY = 1e-9


def outcomes(batch_size, group_size):
    """ĝ and probability of every outcome of a minibatch of `DICE`, baseline 0.3."""
    groups = []
    for x, weight in enumerate(DICE.prompt_probs):
        for group in itertools.product(cells(DICE, np.zeros(6), x), repeat=group_size):
            move = sum(score * (reward - 0.3) for _, score, reward in group)
            groups.append((np.prod([prob for prob, _, _ in group]) * weight, move))
    batches = list(itertools.product(groups, repeat=batch_size))
    moves = np.array([sum(move for _, move in batch) for batch in batches])
    moves = moves / (batch_size * group_size)
    probs = np.array([np.prod([prob for prob, _ in batch]) for batch in batches])
    _, first, index = np.unique(moves.round(9), axis=0, return_index=True, return_inverse=True)
    return moves[first], np.bincount(index.ravel(), probs)


@cache
def drawn(batch_size=1, group_size=1, num_iterations=1, num_runs=100_000):
    """The number of the outcome, shape (R, n), and the probability of each."""
    moves, probs = outcomes(batch_size, group_size)
    runs = optimized(
        DICE, ConstantBaseline(0.3), batch_size=batch_size, group_size=group_size,
        num_iterations=num_iterations, checkpoints=range(1, num_iterations + 1),
        schedule=Constant(TINY), theta0=np.zeros(6), num_runs=num_runs,
        rng=np.random.default_rng(11),
    )  # fmt: skip
    steps = np.diff(runs.theta, axis=1, prepend=0.0) / TINY
    distance, number = cKDTree(moves).query(steps)
    assert distance.max() < 1e-7
    return number, probs


def chi_squared_z(numbers, probs):
    """Pearson's statistic on the normal scale, with rare outcomes taken together."""
    counts, expected = np.bincount(numbers, minlength=len(probs)), probs * len(numbers)
    rare = expected < 10
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return norm.isf(chi2.sf(statistic, len(counts) - 1))


@pytest.mark.parametrize(("batch_size", "group_size"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_minibatches_are_drawn_with_their_probabilities(batch_size, group_size):
    """Prompts, actions and rewards: 12 to 700 outcomes. The mutant has a prompt 10 % too often.

    Would catch: outputs of a group, or slots, that share random numbers; levels of another action.
    """
    numbers, probs = drawn(batch_size, group_size)
    assert probs.sum() == pytest.approx(1)
    assert abs(chi_squared_z(numbers.ravel(), probs)) <= 4
    mutant = probs * np.where(outcomes(batch_size, group_size)[0][:, 0] != 0, 1.1, 1.0)
    assert chi_squared_z(numbers.ravel(), mutant / mutant.sum()) > 4


def test_iterations_and_runs_are_independent():
    """All 144 pairs of outputs, of one run and of neighbours. Would catch: a stream used twice.

    The mutant repeats the first iteration in 2 % of the runs.
    """
    numbers, probs = drawn(num_iterations=3)
    pairs = np.outer(probs, probs).ravel()
    for first, second in itertools.combinations(range(3), 2):
        both = len(probs) * numbers[:, first] + numbers[:, second]
        assert abs(chi_squared_z(both, pairs)) <= 4
        of_neighbours = len(probs) * numbers[1::2, first] + numbers[:-1:2, second]
        assert abs(chi_squared_z(of_neighbours, pairs)) <= 4
        repeated = numbers.copy()
        repeated[::50, second] = repeated[::50, first]
        mutant = len(probs) * repeated[:, first] + repeated[:, second]
        assert chi_squared_z(mutant, pairs) > 4
    same = len(probs) * numbers[1::2, 0] + numbers[:-1:2, 0]
    assert abs(chi_squared_z(same, pairs)) <= 4


def test_means_over_runs_vary_as_those_of_independent_runs():
    """1000 means of 100 runs have 1/100 of the variance, to √(2/1000) = 4.5 %.

    Would catch: seven runs of a hundred that share their draws, as in the mutant.
    """
    numbers, _ = drawn(num_iterations=3)

    def ratio(sums):
        return 100 * sums.reshape(1000, 100).mean(axis=1).var(ddof=1) / sums.var(ddof=1)

    sums = numbers.sum(axis=1)
    assert abs(ratio(sums) - 1) <= 4 * np.sqrt(2 / 1000)
    sums.reshape(1000, 100)[:, 1:7] = sums.reshape(1000, 100)[:, :1]
    assert ratio(sums) - 1 > 4 * np.sqrt(2 / 1000)
