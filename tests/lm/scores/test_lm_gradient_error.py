"""Measured errors of policy gradients: against explicit vectors, all pools there are, and laws."""

from functools import partial
from itertools import product

import numpy as np
import pytest

from support.lm_problems import (
    OUTPUTS,
    PROMPTS,
    SOLUTIONS,
    generator,
    graded,
    grades,
    matches,
    moments_of,
    outputs_in,
    problem,
)
from ustat_grpo.estimators import (
    ConstantBaseline,
    GroupMean,
    Grpo,
    OptimalBaseline,
    Oracle,
    Shrinkage,
    SideInformation,
    Vanilla,
    gradient,
)
from ustat_grpo.laws import mse
from ustat_grpo.lm import sample_groups
from ustat_grpo.lm.questions.rewards import ExactMatch, Reward
from ustat_grpo.lm.scores.known_solutions import brute_force_errors
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.task import Task
from ustat_grpo.pools.errors import pool_errors
from ustat_grpo.pools.measured_moments import pool_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool

MATCH = ExactMatch(SOLUTIONS)
COMPARED = {
    "vanilla": (Vanilla(), mse.vanilla),
    "oracle": (Oracle(), mse.oracle),
    "grpo": (Grpo(), mse.grpo),
    "group mean": (GroupMean(), mse.group_mean),
    "constant": (ConstantBaseline(0.3), partial(mse.constant_baseline, baseline=0.3)),
    "shrinkage": (Shrinkage(0.4, 0.2), partial(mse.shrinkage, weight=0.4, target=0.2)),
    "best": (OptimalBaseline(), mse.optimal_baseline),
}
FREE = ["vanilla", "grpo", "group mean", "constant", "shrinkage"]  # of what a pool must tell
ESTIMATORS = {name: estimator for name, (estimator, _) in COMPARED.items()}


class InOrder(np.random.Generator):
    """Shuffles nothing, so that a sum over all pools is a sum over all groups."""

    def permutation(self, x, axis=0):
        return np.arange(x)


def in_order() -> np.random.Generator:
    return InOrder(np.random.PCG64(0))


def drawn(reward: Reward = MATCH, num_outputs=64, seed=0, **options) -> Pool:
    model, _ = problem()
    return draw_pool(
        model, Task(PROMPTS, reward, 2), num_outputs, **{"rng": generator(seed), **options}
    )


def places(num_outputs: int, seed: int) -> np.ndarray:
    """Which outputs the same generator draws, shape (P, M)."""
    model, _ = problem()
    rollouts = sample_groups(model, PROMPTS, num_outputs, max_tokens=2, rng=generator(seed))
    return np.array([[OUTPUTS.index(each) for each in group] for group in outputs_in(rollouts)])


@pytest.mark.parametrize("group_size", [2, 5, 32])
def test_errors_are_those_of_explicit_gradients(group_size):
    """‖(1/G)Σ W_i A_i − g(x)‖² of every group, its scores by backward passes, to 1e-9."""
    _, known = problem()
    found = pool_errors(drawn(), ESTIMATORS, group_size, rng=np.random.default_rng(4))
    measured = pool_moments(drawn()).moments
    best = measured.value + measured.score_norm_reward_covariance / measured.score_norm_squared
    truth, rng, here = known.gradients(matches()), np.random.default_rng(4), places(64, 0)
    for row in range(len(PROMPTS)):
        groups = here[row, rng.permutation(64)[: 64 // group_size * group_size]]
        groups = groups.reshape(-1, group_size)
        value = np.full(len(groups), measured.value[row])
        for name, estimator in ESTIMATORS.items():
            estimates = gradient(
                estimator,
                known.scores[row, groups],
                matches()[row, groups],
                SideInformation(value, np.full(len(groups), best[row])),
            )
            errors = ((estimates - truth[row]) ** 2).sum(axis=1)
            assert found[name].mean[row] == pytest.approx(errors.mean(), rel=1e-9)
            std_error = errors.std(ddof=1) / len(groups) ** 0.5
            assert found[name].std_error[row] == pytest.approx(std_error, rel=1e-9, abs=1e-9)
            assert found[name].num_groups == 64 // group_size


def test_errors_without_known_gradients_are_those_of_explicit_ones():
    """‖ĝ‖² − 2ĝ·g′ + ‖g‖², g′ the covariance of score and reward of the outputs elsewhere."""
    _, known = problem()
    pool, rewards = drawn(graded), grades()
    found = pool_errors(pool, ESTIMATORS, 8, rng=np.random.default_rng(4))
    measured = pool_moments(pool).moments
    best = measured.value + measured.score_norm_reward_covariance / measured.score_norm_squared
    rng, here = np.random.default_rng(4), places(64, 0)
    for row in range(len(PROMPTS)):
        order = rng.permutation(64)
        for name, estimator in ESTIMATORS.items():
            errors = []
            for group in order.reshape(-1, 8):
                inside, outside = here[row, group], here[row, np.setdiff1d(order, group)]
                estimate = gradient(
                    estimator,
                    known.scores[row, inside],
                    rewards[row, inside],
                    SideInformation(measured.value[row], best[row]),
                )
                judged = rewards[row, outside]
                elsewhere = (judged - judged.mean()) @ known.scores[row, outside] / 55
                errors.append(estimate @ estimate - 2 * estimate @ elsewhere)
            norm = measured.gradient_norm_squared[row]
            assert found[name].mean[row] == pytest.approx(np.mean(errors) + norm, rel=1e-9)
            assert found[name].std_error[row] == pytest.approx(
                np.std(errors, ddof=1) / 8**0.5, rel=1e-9
            )


def cells(levels: list[float]):
    """One prompt: probability, output and reward of three or four cells, and three scores.

    With four rewards the second output has two of them at random.
    """
    policy = np.array([0.35, 0.4, 0.25])
    free = np.array([[1.0, 0.4], [-0.8, 1.5]])
    scores = np.vstack([free, -(policy[:2] @ free) / policy[2]])
    if len(levels) == 3:
        return policy, np.arange(3), np.array(levels), scores
    probs = policy[[0, 1, 1, 2]] * [1, 0.25, 0.75, 1]
    return probs, np.array([0, 1, 1, 2]), np.array(levels), scores


def every_pool(num_outputs: int, levels: list[float], solution: int | None):
    """Every pool of M outputs with its probability, as so many prompts; and the true moments."""
    probs, outputs, rewards, scores = cells(levels)
    members = np.array(list(product(range(len(probs)), repeat=num_outputs)))
    value = None if solution is None else float(probs @ rewards)
    pools = [
        PromptPool(scores @ scores.T, outputs[each], rewards[each], value, solution)
        for each in members
    ]
    products = np.eye(NUM_BLOCKS) if solution is None else np.zeros((1, 1))
    truth = moments_of(probs[None], scores[outputs][None], rewards[None])
    return probs[members].prod(axis=1), Pool(pools, products), truth


def g_for_g_minus_1(moments, *, group_size: int) -> np.ndarray:
    """A wrong law of GRPO, with G² in the place of G(G − 1)."""
    first_order = mse.oracle(moments, group_size=group_size)
    return first_order + moments.residual_norm_squared / group_size**2


@pytest.mark.parametrize(("num_outputs", "group_size"), [(4, 2), (5, 2), (6, 3)])
def test_laws_by_enumeration_of_every_pool(num_outputs, group_size):
    """With an exact value and gradient: E over all pools is the law to 1e-12, for every estimator.

    The only output with a reward is the solution. Mutants: G for G − 1 in GRPO's law, and no
    ‖g‖²/G² in that of the group mean. The best baseline is left out: the pool only measures it.
    """
    probs, pool, truth = every_pool(num_outputs, [1.0, 0.0, 0.0], 0)
    found = pool_errors(pool, ESTIMATORS, group_size, rng=in_order())
    expected = require_laws(probs, found, truth, group_size, [*FREE, "oracle"])
    wrong = g_for_g_minus_1(truth, group_size=group_size).item()
    assert abs(expected["grpo"] / wrong - 1) > 0.1
    wrong = expected["group mean"] - truth.gradient_norm_squared.item() / group_size**2
    assert abs(expected["group mean"] / wrong - 1) > 0.1


def test_laws_by_enumeration_without_known_gradients():
    """Rewards of three levels, ‖g‖² and ĝ·g from the pool itself: still the law to 1e-12.

    Mutant: E‖ĝ‖² − ‖g‖², the error only where E ĝ = g. The group mean's at G = 2 has E ĝ = ½g, so
    E‖ĝ‖² alone is its error, and what is left after ‖g‖² is negative.
    """
    probs, pool, truth = every_pool(4, [1.0, 0.0, 2.0, 0.0], None)
    found = pool_errors(pool, ESTIMATORS, 2, rng=in_order())
    expected = require_laws(probs, found, truth, 2, FREE)
    assert expected["group mean"] - truth.gradient_norm_squared.item() < 0


def require_laws(probs, found, truth, group_size, names) -> dict[str, float]:
    """Assert that the sums over all pools are the laws, and return these."""
    expected = {}
    for name in names:
        expected[name] = COMPARED[name][1](truth, group_size=group_size).item()
        assert probs @ found[name].mean == pytest.approx(expected[name], rel=1e-12), name
    return expected


def test_oracle_that_is_told_the_pools_mean_tends_to_its_law():
    """E over all pools is law + a/M + b/M² exactly: seen at M = 4, 5 and 6, with a < 0."""
    sizes, apart = np.array([4, 5, 6]), []
    for num_outputs in sizes.tolist():
        probs, pool, truth = every_pool(num_outputs, [1.0, 2.0, 0.0], None)
        found = pool_errors(pool, {"oracle": Oracle()}, 2, rng=in_order())["oracle"]
        apart.append(probs @ found.mean - mse.oracle(truth, group_size=2).item())
    slope, intercept = np.polyfit(1 / sizes, sizes * apart, 1)
    np.testing.assert_allclose(sizes * apart, intercept + slope / sizes, rtol=1e-10)
    assert intercept < -0.1


def z_scores(pool: Pool, group_size: int, law_of, names=tuple(COMPARED), truth=None) -> list[float]:
    """(measurement − law)/standard error of the error at every prompt, for some estimators."""
    found = pool_errors(pool, ESTIMATORS, group_size, rng=np.random.default_rng(0))
    zs = []
    for name in names:
        errors = found[name]
        law = law_of(name)(truth, group_size=group_size)
        zs += ((errors.mean - law) / errors.std_error).tolist()
    return zs


@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_exact_pools_against_the_laws_in_standard_errors(group_size):
    """|z| ≤ 4 at every prompt from 4096 outputs of the transformer; catches errors of 3 % to 27 %.

    Moments are those of the enumeration. Mutant: G for G − 1 in GRPO's law fails at G = 2 and 3.
    """
    _, known = problem()
    truth = known.moments(matches())
    pool = drawn(num_outputs=4096, seed=5)
    zs = z_scores(pool, group_size, lambda name: COMPARED[name][1], truth=truth)
    assert np.abs(zs).max() <= 4

    if group_size < 8:
        wrongs = z_scores(pool, group_size, lambda name: g_for_g_minus_1, ["grpo"], truth=truth)
        assert np.abs(wrongs).max() > 4


@pytest.mark.parametrize("group_size", [2, 4])
def test_sampled_pools_against_the_laws_in_standard_errors(group_size):
    """Rewards 0, 1, 2 of the transformer's outputs; 30 pools of 128, spread between pools.

    |z| ≤ 4 for every prompt. Catches errors of 5 % to 15 %. Mutant: the group mean's law without
    ‖g‖²/G².
    """
    _, known = problem()
    truth = known.moments(grades())
    chosen = {name: ESTIMATORS[name] for name in FREE}
    rng = np.random.default_rng(1)
    errors = [
        {
            name: found.mean
            for name, found in pool_errors(
                drawn_from(known, rng), chosen, group_size, rng=rng
            ).items()
        }
        for _ in range(30)
    ]
    for name in FREE:
        per_pool = np.array([each[name] for each in errors])
        law = COMPARED[name][1](truth, group_size=group_size)
        std_error = per_pool.std(axis=0, ddof=1) / 30**0.5
        assert np.abs((per_pool.mean(axis=0) - law) / std_error).max() <= 4, name
        if name == "group mean":
            wrong = law - truth.gradient_norm_squared / group_size**2
            assert np.abs((per_pool.mean(axis=0) - wrong) / std_error).max() > 4


def drawn_from(known, rng: np.random.Generator, num_outputs: int = 128) -> Pool:
    """A pool that is drawn from the enumeration, without a model."""
    pools = []
    for row, probs in enumerate(known.probs):
        gram = known.scores[row] @ known.scores[row].T
        here = rng.choice(len(probs), num_outputs, p=probs / probs.sum())
        pools.append(PromptPool(gram, here, grades()[row, here]))
    return Pool(pools, np.eye(NUM_BLOCKS))


def test_error_bars_without_known_gradients_hold(monkeypatch):
    """Mean std_error² of the groups of a pool over the variance between 80 pools, |z| ≤ 4.

    The ratio's own error is 0.16, so this catches a factor of 1.6. Mutant: the spread of ‖ĝ‖², as
    if ‖g‖² were known though it comes from the same outputs.
    """
    _, known = problem()
    rng = np.random.default_rng(2)
    pools = [drawn_from(known, rng, 64) for _ in range(80)]
    chosen = {"grpo": Grpo()}
    found = [pool_errors(pool, chosen, 4, rng=in_order())["grpo"] for pool in pools]
    spread = np.array([each.mean for each in found]).var(axis=0, ddof=1)
    ratio = np.array([each.std_error**2 for each in found]).mean(axis=0) / spread
    deviation = np.sqrt(2 / 79)
    assert np.abs(ratio - 1).max() <= 4 * deviation
    monkeypatch.setattr(
        "ustat_grpo.pools.errors._along", lambda prompt, groups: np.zeros(groups.shape)
    )
    found = [pool_errors(pool, chosen, 4, rng=in_order())["grpo"] for pool in pools]
    wrong = np.array([each.std_error**2 for each in found]).mean(axis=0) / spread
    assert np.abs(wrong - 1).max() > 4 * deviation


def test_groups_are_nested_and_paired():
    """Groups of 4 of one generator state are made of its groups of 2; all estimators see them."""
    pool = drawn(num_outputs=64)
    alone = pool_errors(pool, {"a": Vanilla()}, 4, rng=np.random.default_rng(0))["a"]
    among = pool_errors(pool, ESTIMATORS, 4, rng=np.random.default_rng(0))["vanilla"]
    np.testing.assert_array_equal(alone.mean, among.mean)
    here = PromptPool(np.eye(64), np.arange(64), np.ones(64), 1.0, 0)  # orthogonal scores, g = W_0
    for size in (2, 4, 8):
        found = pool_errors(Pool([here], np.ones((1, 1))), {"a": Vanilla()}, size, rng=in_order())
        # One group of n holds W_0: Σ ‖ĝ − g‖² = n(1/G + 1) − 2/G.
        count = 64 // size
        assert found["a"].mean == pytest.approx((count * (1 / size + 1) - 2 / size) / count)


@pytest.mark.parametrize(
    ("group_size", "message"),
    [
        (33, "group_size must be at most half the pool of 64 outputs, got 33"),
        (0, "group_size must be an integer of at least 1, got 0"),
        (2.0, r"group_size must be an integer of at least 1, got 2\.0"),
        (1, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
    ],
)
def test_bad_group_sizes_are_refused(group_size, message):
    with pytest.raises(ValueError, match=message):
        pool_errors(drawn(), ESTIMATORS, group_size, rng=np.random.default_rng(0))


def test_a_single_output_is_a_group_for_estimators_without_others():
    found = pool_errors(drawn(), {"a": Vanilla()}, 1, rng=np.random.default_rng(0))["a"]
    assert found.num_groups == 64


def test_seeds_are_refused():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        pool_errors(drawn(), ESTIMATORS, 2, rng=0)


BRUTE = ["vanilla", "oracle", "grpo", "group mean"]


class HalfJudged(ExactMatch):
    """No verdict on outputs that begin with token 2."""

    def __call__(self, rollouts, questions):
        return super().__call__(rollouts, questions).where(rollouts.outputs[..., 0] != 2, np.nan)


def brute_force(
    num_replications: int, group_size: int, *, names=BRUTE, prompts=PROMPTS, reward=MATCH
):
    model, _ = problem()
    return brute_force_errors(
        model, Task(prompts, reward, 2), {name: ESTIMATORS[name] for name in names}, group_size,
        num_replications=num_replications, rng=generator(0),
    )  # fmt: skip


def explicit_minibatch_errors(num_replications: int, group_size: int, seed: int = 0, unjudged=()):
    """The same by explicit scores of the very outputs that the generator draws."""
    rewards = matches().astype(float)
    rewards[:, list(unjudged)] = np.nan
    model, known = problem()
    rng, truth = generator(seed), known.gradients(matches()).mean(axis=0)
    value = (known.probs * matches()).sum(axis=1)
    rows = np.arange(3)[:, None]
    errors: dict[str, list[float]] = {name: [] for name in BRUTE}
    for _ in range(num_replications):
        rollouts = sample_groups(model, PROMPTS, group_size, max_tokens=2, rng=rng)
        here = np.array([[OUTPUTS.index(y) for y in group] for group in outputs_in(rollouts)])
        for name in BRUTE:
            found = gradient(
                ESTIMATORS[name],
                known.scores[rows, here],
                rewards[rows, here],
                SideInformation(value),
            )
            errors[name].append(((found.mean(axis=0) - truth) ** 2).sum())
    return {name: np.array(found) for name, found in errors.items()}


def test_brute_force_leaves_out_what_has_no_verdict():
    """Would catch: a mean over all G outputs, too short by the share that has no verdict."""
    unjudged = [place for place, output in enumerate(OUTPUTS) if output[0] == 2]
    found = brute_force(5, 4, reward=HalfJudged(SOLUTIONS))
    expected = explicit_minibatch_errors(5, 4, unjudged=unjudged)
    for name in BRUTE:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_brute_force_is_that_of_explicit_gradients():
    found, expected = brute_force(5, 4), explicit_minibatch_errors(5, 4)
    assert list(found) == BRUTE
    for name in BRUTE:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_brute_force_against_the_laws_in_standard_errors():
    """|z| ≤ 4 of whole minibatches, every prompt once; catches errors of about 15 %.

    Mutants: the mean error at the prompts without its division by P, and G for G − 1.
    """
    _, known = problem()
    truth = known.moments(matches())
    found = brute_force(250, 2, names=["grpo"])
    for name, errors in found.items():
        gain = mse.group_mean_gain(2) if name == "group mean" else 1.0
        per_prompt = COMPARED[name][1](truth, group_size=2)
        law = mse.minibatch(per_prompt, truth, batch_size=None, gain=gain)
        std_error = errors.std(ddof=1) / len(errors) ** 0.5
        assert abs(errors.mean() - law) <= 4 * std_error, name
        wrongs = [3 * law]
        if name == "grpo":
            less = g_for_g_minus_1(truth, group_size=2)
            wrongs.append(mse.minibatch(less, truth, batch_size=None))
        assert all(abs(errors.mean() - wrong) > 4 * std_error for wrong in wrongs), name


def test_brute_force_refuses_bad_arguments():
    with pytest.raises(ValueError, match="num_replications must be an integer of at least 1"):
        brute_force(0, 2)
    with pytest.raises(ValueError, match="group_size must be at least 2 for a leave-one-out"):
        brute_force(1, 1)
    with pytest.raises(ValueError, match="prompts must be those of the 3 solutions, one each"):
        brute_force(1, 2, prompts=PROMPTS[:2])
