"""Algorithm 2 against a plain NumPy version of it: enumerated, simulated, and coupled with 1."""

from __future__ import annotations

import dataclasses
import itertools
import re
from functools import cache, partial

import numpy as np
import pytest
from scipy.special import softmax

from support.problems import cells, one_hot, random_problem
from support.training_options import optimized
from ustat_grpo import (
    Box,
    Constant,
    Decay,
    Grpo,
    OptimalBaseline,
    Practice,
    SideInformation,
    TugOfWar,
    Vanilla,
)
from ustat_grpo.estimators.normalised import StdNormalised
from ustat_grpo.optimization.training_config import PROMPT_SAMPLING

TUG = TugOfWar(num_axes=2, num_flat=1, separation=(1.5, 3.0))
KINDS = {
    "tabular": random_problem(np.random.default_rng(1), 3, 4),
    "three levels": random_problem(np.random.default_rng(2), 5, 3, reward_levels=(2, -1, 0.5)),
    "features": random_problem(np.random.default_rng(3), 4, 3, dimension=2),
    "tug of war": (TUG.bandit, TUG.theta(0.5)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
BUSY = Practice(2, clip=(0.2, 0.3), penalty="k3", penalty_weight=0.3)
THE_LOOP_OF_2 = Practice(penalty_weight=1e-300)
"""Algorithm 1 in effect, for which the faster loop is not taken."""


@cache
def of_equal_prompts(kind):
    """The same one to all, which then looks for its best objective once."""
    return dataclasses.replace(KINDS[kind][0], prompt_probs=None)


def climb(kind="tabular", estimator=None, *, seed=0, sampling="iid", **options):
    bandit, theta0 = KINDS[kind]
    if sampling != "iid":
        bandit = of_equal_prompts(kind)
    arguments = {
        "batch_size": 2, "group_size": 4, "num_iterations": 12, "schedule": Decay(3.0, 2.0),
        "num_runs": 7, "theta0": theta0, "rng": np.random.default_rng(seed), "threads": 1,
        "practice": BUSY, "prompt_sampling": sampling,
    }  # fmt: skip
    return optimized(bandit, Grpo() if estimator is None else estimator, **(arguments | options))


def logits_of(bandit, theta, x):
    features = bandit.features
    features = one_hot(*bandit.offsets.shape) if features is None else features
    return np.einsum("...kd,...d->...k", features[x], theta[:, None, :]) + bandit.offsets[x]


class Mutant:
    """What a wrong implementation might do."""

    NONE, NO_RATIO, ANY_RATIO, STALE, ASCENDS_KL, OTHER_SIDE, SHORT_MEAN = range(7)


def updated(bandit, theta, x, y, advantages, old, reference, rate, practice, mutant=Mutant.NONE):
    """θ after one minibatch, in plain NumPy, for R cases at once.

    Args: θ and old (R, d), prompts (R, b), actions and advantages (R, b, G), reference (d,).
    """
    features = bandit.features
    features = one_hot(*bandit.offsets.shape) if features is None else features
    now = old if mutant == Mutant.STALE else theta
    policies = [softmax(logits_of(bandit, each, x), axis=-1)
                for each in (now, old, np.broadcast_to(reference, theta.shape))]  # fmt: skip
    chosen = [np.take_along_axis(policy, y, axis=-1) for policy in policies]
    ratio = chosen[0] / chosen[1]
    forgotten = practice.ratio == "none" and mutant != Mutant.ANY_RATIO
    if forgotten or mutant == Mutant.NO_RATIO:
        ratio = np.ones_like(ratio)
    weight = advantages * ratio
    if practice.clip is not None:
        low, high = practice.clip
        above, below = ratio > 1 + high, ratio < 1 - low
        if mutant == Mutant.OTHER_SIDE:
            above, below = below, above
        weight = np.where((advantages > 0) & above, 0.0, weight)
        weight = np.where((advantages < 0) & below, 0.0, weight)
    drift = np.log(chosen[0]) - np.log(chosen[2])
    slope = {"k1": np.ones_like(drift), "k2": drift, "k3": 1 - np.exp(-drift)}[practice.penalty]
    sign = -1 if mutant == Mutant.ASCENDS_KL else 1
    weight = weight - sign * practice.penalty_weight * slope
    scores = (
        features[x[..., None], y] - np.einsum("rbk,rbkd->rbd", policies[0], features[x])[:, :, None]
    )
    outputs = advantages[0].size * (2 if mutant == Mutant.SHORT_MEAN else 1)
    return theta + rate / outputs * np.einsum("rbg,rbgd->rd", weight, scores)


def iteration(bandit, theta, x, y, advantages, reference, rate, practice, mutant=Mutant.NONE):
    """θ after all minibatches of a batch."""
    old, parts = theta, practice.num_minibatches
    for part in np.split(np.arange(x.shape[1]), parts):
        theta = updated(
            bandit, theta, x[:, part], y[:, part], advantages[:, part], old, reference, rate,
            practice, mutant,
        )  # fmt: skip
    return theta


ENUMERATED = {
    "token": Practice(2),
    "sequence": Practice(2, ratio="sequence"),
    "none": Practice(2, ratio="none"),
    "clip": Practice(2, clip=(0.1, 0.15)),
    "k1": Practice(2, penalty="k1", penalty_weight=0.5),
    "k2": Practice(2, penalty="k2", penalty_weight=0.5),
    "k3": Practice(2, penalty="k3", penalty_weight=0.5),
    "one minibatch": Practice(penalty="k3", penalty_weight=0.5),
    "everything": Practice(2, ratio="token", clip=(0.1, 0.15), penalty="k2", penalty_weight=0.5),
}
CAUGHT = {
    "token": (Mutant.NO_RATIO, Mutant.STALE, Mutant.SHORT_MEAN),
    "none": (Mutant.ANY_RATIO,),
    "clip": (Mutant.OTHER_SIDE,),
    "k2": (Mutant.ASCENDS_KL, Mutant.STALE),
    "k3": (Mutant.ASCENDS_KL, Mutant.STALE),
    "one minibatch": (Mutant.ASCENDS_KL,),
}
RATES = {"clip": 2.0}
"""4 elsewhere; from there on what is clipped has hardly a score left."""
REFERENCES = {None: np.array([0.4, -0.9, 0.2, 0.7]), 2: np.array([0.8, -0.5])}


def enumerated(bandit, theta0, reference, rate, practice, mutant=Mutant.NONE):
    """E θ and E θ² after one iteration, B = 2 and G = 2, over every batch: 4·4⁴ cases."""
    num_levels = len(bandit.reward_levels)
    weights, prompts, drawn = [], [], []
    for x in itertools.product(range(2), repeat=2):
        lists = [cells(bandit, theta0, each) for each in x for _ in range(2)]
        for batch in itertools.product(*(range(len(each)) for each in lists)):
            probs = [each[cell][0] for each, cell in zip(lists, batch, strict=True)]
            weights.append(np.prod(probs) * np.prod(bandit.prompt_probs[list(x)]))
            prompts.append(x)
            drawn.append(batch)
    x, batch = np.array(prompts), np.array(drawn).reshape(-1, 2, 2)
    rewards = bandit.reward_levels[batch % num_levels]
    theta = np.broadcast_to(theta0, (len(x), len(theta0)))
    ends = iteration(
        bandit, theta, x, batch // num_levels, Grpo().advantages(rewards), reference, rate,
        practice, mutant,
    )  # fmt: skip
    return np.stack([weights @ ends, weights @ ends**2])


def z_scores(theta, expected):
    """Means of θ and θ² over runs less the expected, in standard errors."""
    samples = np.stack([theta, theta**2])
    spread = samples.std(axis=1, ddof=1) / np.sqrt(samples.shape[1])
    return (samples.mean(axis=1) - expected) / np.maximum(spread, 1e-13)


@cache
def two_prompts(dimension):
    """The same ones to all, which then look for their best objective once."""
    return random_problem(np.random.default_rng(2), 2, 2, dimension=dimension)


@pytest.mark.parametrize("name", ENUMERATED)
@pytest.mark.parametrize("dimension", [None, 2], ids=["tabular", "features"])
def test_one_iteration_against_enumeration(name, dimension):
    """Would catch an error of 1.3 % of a move's spread; and each mutant of `CAUGHT` is told apart.

    Of a group of two all advantages cancel: without ratios a stale policy changes nothing.
    """
    bandit, theta0 = two_prompts(dimension)
    practice, reference, rate = ENUMERATED[name], REFERENCES[dimension], RATES.get(name, 4.0)
    runs = optimized(
        bandit, Grpo(), batch_size=2, group_size=2, num_iterations=1, schedule=Constant(rate),
        theta0=theta0, num_runs=100_000, practice=practice, reference=reference,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    theta = runs.theta[:, 0]
    exact = partial(enumerated, bandit, theta0, reference, rate, practice)
    assert abs(z_scores(theta, exact())).max() <= 4
    for mutant in CAUGHT.get(name, ()):
        assert abs(z_scores(theta, exact(mutant))).max() > 4, mutant


def simulated(bandit, estimator, theta0, reference, practice, rates, num_runs=3000):
    """θ after whole runs with B = 4 and G = 3, on random numbers of another kind, (R, d)."""
    rng, num_prompts = np.random.default_rng(99), len(bandit.prompt_probs)
    theta = np.tile(theta0, (num_runs, 1))
    for rate in rates:
        x = rng.choice(num_prompts, (num_runs, 4), p=bandit.prompt_probs)
        logits = logits_of(bandit, theta, x)
        noise = rng.gumbel(size=(num_runs, 4, 3, logits.shape[-1]))
        y = (logits[:, :, None] + noise).argmax(axis=-1)
        chances = bandit.reward_probs[x[..., None], y].cumsum(axis=-1)[..., :-1]
        levels = (rng.random((num_runs, 4, 3, 1)) >= chances).sum(axis=-1)
        mean = (bandit.reward_probs @ bandit.reward_levels)[x]
        side = SideInformation((softmax(logits, axis=-1) * mean).sum(axis=-1))
        advantages = estimator.advantages(bandit.reward_levels[levels], side)
        theta = iteration(bandit, theta, x, y, advantages, reference, rate, practice)
    return theta


WHOLE_RUNS = {
    "four updates": ("features", Grpo(), Practice(4), Practice(2)),
    "k2, clipped": ("tabular", StdNormalised(eps=0.1),
                    Practice(2, clip=(0.2, 0.3), penalty="k2", penalty_weight=0.4),
                    Practice(2, clip=(0.2, 0.3), penalty="k3", penalty_weight=0.4)),
    "k3, vanilla": ("three levels", Vanilla(), Practice(2, penalty="k3", penalty_weight=0.3),
                    Practice(2, penalty="k3", penalty_weight=0.2)),
    "no ratio": ("features", Grpo(), Practice(4, ratio="none"), Practice(4)),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE_RUNS.values(), ids=WHOLE_RUNS)
def test_whole_runs_against_an_independent_simulation(case):
    """Means of θ and θ² after 6 iterations; another practice, the case's last, is told apart.

    Would catch: π_old that is not renewed, sums that a minibatch leaves to the next.
    """
    kind, estimator, right, wrong = case
    (bandit, theta0), rates = KINDS[kind], Decay(12.0, 3.0).rates(6)
    reference = 0.5 * theta0 - 0.2
    theirs = simulated(bandit, estimator, theta0, reference, right, rates)

    def largest_z(practice):
        ours = climb(
            kind, estimator, batch_size=4, group_size=3, num_iterations=6, num_runs=20_000,
            schedule=Decay(12.0, 3.0), practice=practice, reference=reference, threads=None,
        ).theta[:, 0]  # fmt: skip
        pairs = np.stack([ours, ours**2]), np.stack([theirs, theirs**2])
        spread = sum(each.var(axis=1) / each.shape[1] for each in pairs)
        difference = pairs[0].mean(axis=1) - pairs[1].mean(axis=1)
        return abs(difference / np.sqrt(np.maximum(spread, 1e-26))).max()

    assert largest_z(right) <= 4
    assert largest_z(wrong) > 4


class TestBesideAlgorithm1:
    @every_kind
    @pytest.mark.parametrize("sampling", PROMPT_SAMPLING)
    @pytest.mark.parametrize("estimator", [Grpo(), Vanilla(), OptimalBaseline()], ids=str)
    def test_one_minibatch_without_penalty_is_algorithm_1(self, kind, sampling, estimator):
        """The same draws in both loops: paired to rounding. Would catch a stream of its own."""
        one, two = (
            climb(kind, estimator, sampling=sampling, practice=practice, checkpoints=[1, 5, 12])
            for practice in (Practice(), THE_LOOP_OF_2)
        )
        np.testing.assert_allclose(two.theta, one.theta, rtol=0, atol=1e-12)
        np.testing.assert_allclose(two.objective, one.objective, rtol=0, atol=1e-12)

    def test_tabulated_advantages_too(self):
        one, two = (climb("tabular", StdNormalised(), practice=practice)
                    for practice in (Practice(), THE_LOOP_OF_2))  # fmt: skip
        np.testing.assert_allclose(two.theta, one.theta, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        "practice", [Practice(ratio="none"), Practice(clip=(0.1, 0.1)), Practice(penalty="k1")]
    )
    def test_what_does_nothing_on_policy_changes_no_bit(self, practice):
        expected = climb(practice=Practice())
        np.testing.assert_array_equal(climb(practice=practice).theta, expected.theta)

    def test_the_first_minibatch_is_on_policy(self):
        """Its batch is the first half of the other's: one update less, the same draws."""
        half = climb(batch_size=2, num_iterations=1, practice=Practice())
        whole = climb(batch_size=4, num_iterations=1, practice=Practice(2))
        lone = climb(batch_size=4, num_iterations=1, practice=Practice())
        assert np.corrcoef(half.theta.ravel(), whole.theta.ravel())[0, 1] > 0.5
        assert not np.allclose(whole.theta, lone.theta, atol=1e-3)

    def test_token_and_sequence_are_the_same_here(self):
        token, sequence = (
            climb(practice=Practice(2, ratio=name)) for name in ("token", "sequence")
        )
        np.testing.assert_array_equal(token.theta, sequence.theta)


class TestPromises:
    @every_kind
    @pytest.mark.parametrize("threads", [2, 50, None])
    def test_threads_change_no_bit(self, kind, threads):
        one, other = climb(kind), climb(kind, threads=threads)
        np.testing.assert_array_equal(one.theta, other.theta)
        np.testing.assert_array_equal(one.objective, other.objective)

    @pytest.mark.parametrize("sampling", PROMPT_SAMPLING)
    def test_a_run_does_not_depend_on_how_many_there_are(self, sampling):
        """Would catch: sums of a minibatch that the next run of the thread finds."""
        many, few = climb(sampling=sampling, num_runs=40), climb(sampling=sampling, num_runs=11)
        np.testing.assert_array_equal(many.theta[:11], few.theta)

    @every_kind
    def test_checkpoints_count_iterations_and_record_the_truth(self, kind):
        every = climb(kind, checkpoints=range(1, 13))
        np.testing.assert_array_equal(climb(kind, num_iterations=5).theta[:, 0], every.theta[:, 4])
        objective = [[KINDS[kind][0].at(theta).objective for theta in run] for run in every.theta]
        np.testing.assert_allclose(every.objective, objective, rtol=0, atol=1e-12)

    def test_runs_stay_in_the_box_at_every_update(self):
        box = Box([0, 0.2], [1, 0.8], TUG.axes)
        runs = climb("tug of war", projection=box, schedule=Constant(5.0), checkpoints=range(1, 13))
        assert box.contains(runs.theta)
        assert not box.contains(climb("tug of war", schedule=Constant(5.0)).theta)

    def test_the_reference_is_where_runs_begin_unless_given(self):
        theta0 = KINDS["tabular"][1]
        np.testing.assert_array_equal(climb().theta, climb(reference=theta0).theta)
        assert not np.array_equal(climb().theta, climb(reference=np.zeros(12)).theta)

    @pytest.mark.parametrize("penalty", ["k2", "k3"])
    def test_masked_actions_and_far_parameters_are_no_trouble(self, penalty):
        """Logits of ±5000: no NaN. Would catch 0·∞ at actions that are never drawn."""
        bandit, theta0 = KINDS["tabular"]
        masked = dataclasses.replace(bandit, offsets=np.tile([0.0, -5e3, 5.0, 0.0], (3, 1)))
        for start in (theta0, 5e3 * theta0):
            runs = optimized(
                masked, Grpo(), batch_size=2, group_size=4, num_iterations=12, num_runs=7,
                schedule=Constant(1.0), theta0=start, rng=np.random.default_rng(0),
                practice=Practice(2, penalty=penalty, penalty_weight=0.1),
            )  # fmt: skip
            assert np.isfinite(runs.theta).all()


BAD = [
    ({"practice": Practice(3)}, "batch_size must be a multiple of num_minibatches = 3, got 2"),
    ({"reference": np.zeros(11)}, "reference must have length 12, got 11"),
    ({"reference": np.full(12, np.nan)}, "reference must be finite, got 12 NaN or infinity"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_errors_say_what_is_wrong_before_any_work(wrong, message):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        climb(rng=rng, **wrong)
    assert rng.bit_generator.state == before
