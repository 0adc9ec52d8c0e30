"""Measured moments: unbiased by enumeration of every pool, and their error bars."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from support.lm_problems import (
    MOMENTS,
    PROMPTS,
    SOLUTIONS,
    Enumerated,
    generator,
    graded,
    grades,
    matches,
    moments_of,
    problem,
)
from ustat_grpo.laws import mse
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.scores.known_solutions import norm_moments
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.task import Task
from ustat_grpo.moments import Moments
from ustat_grpo.pools.measured_moments import exact_match_moments, pool_moments
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool

MATCH = ExactMatch(SOLUTIONS)
TASK = Task(PROMPTS, MATCH, max_tokens=2)
OUTCOMES = ("success_probability", "success_score_norm_squared", "failure_score_norm_squared")


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One prompt: probability, output and reward of every cell, and the outputs' scores.

    Three outputs with E W = 0; the second has random rewards, and they take three levels.
    """
    policy = np.array([0.5, 0.2, 0.3])
    free = np.array([[1.0, 0.4], [-0.8, 1.5]])
    scores = np.vstack([free, -(policy[:2] @ free) / policy[2]])
    probs = policy[[0, 1, 1, 2]] * [1, 0.25, 0.75, 1]
    return probs, np.array([0, 1, 1, 2]), np.array([1.0, 0.0, 2.0, 0.0]), scores


def every_pool(num_outputs: int) -> tuple[np.ndarray, list[PromptPool]]:
    """Every pool of M outputs there is, with its probability."""
    probs, outputs, rewards, scores = cells()
    drawn = np.array(list(product(range(len(probs)), repeat=num_outputs)))
    gram = scores @ scores.T
    pools = [PromptPool(gram, outputs[each], rewards[each]) for each in drawn]
    return probs[drawn].prod(axis=1), pools


def truth() -> Moments:
    probs, outputs, rewards, scores = cells()
    return moments_of(probs[None], scores[outputs][None], rewards[None])


def test_sampled_moments_are_unbiased_by_enumeration():
    """E of V, σ², s, τ, m and ‖g‖² over all 4⁴ pools of four outputs, to 1e-12.

    Also without each part of them, where three outputs are left of four.
    """
    probs, pools = every_pool(4)
    found = pool_moments(Pool(pools, np.eye(NUM_BLOCKS)))
    for moments in (found.moments, *found.left_out[:5]):
        for name in MOMENTS:
            expected = getattr(truth(), name)
            assert probs @ getattr(moments, name) == pytest.approx(expected, rel=1e-12), name
    changed = [(np.abs(m.value - found.moments.value) > 1e-9).any() for m in found.left_out]
    assert changed == [True] * 4 + [False] * 12


def test_sampled_moments_are_the_means_that_they_are_said_to_be(rng):
    """By loops over distinct i, j, k of seven outputs; C is the mean of all but i and j."""
    places, rewards = rng.integers(3, size=7), rng.choice([0.0, 1.0, 2.0, 0.5], size=7)
    gram = rng.normal(size=(3, 3))
    pool = PromptPool(gram @ gram.T, places, rewards)
    found = pool_moments(Pool([pool], np.eye(NUM_BLOCKS))).moments
    norms, products, numbers = pool.norms, pool.products, range(7)
    tau = [norms[i] * (rewards[i] - rewards[j]) * (rewards[i] - rewards[k])
           for i, j, k in permutations(numbers, 3)]  # fmt: skip
    squared = [
        products[i, j] * (rewards[i] - rest.mean()) * (rewards[j] - rest.mean())
        for i, j in permutations(numbers, 2)
        for rest in [np.delete(rewards, [i, j])]
    ]
    assert found.oracle_norm_squared.item() == pytest.approx(np.mean(tau), rel=1e-12)
    assert found.gradient_norm_squared.item() == pytest.approx(np.mean(squared), rel=1e-12)
    m = [norms[i] * (rewards[i] - rewards[j]) for i, j in permutations(numbers, 2)]
    assert found.score_norm_reward_covariance.item() == pytest.approx(np.mean(m), rel=1e-12)


def test_plugged_in_moments_are_not():
    """Mutants: the plain moments of a pool, and ‖g‖² with the products of an output and itself."""
    probs, pools = every_pool(4)
    wrong = np.array([plugged_in(pool) for pool in pools])
    for name, found in zip(MOMENTS, (probs @ wrong).tolist(), strict=False):
        exact = getattr(truth(), name).item()
        plain = name in ("value", "score_norm_squared")
        assert (abs(found / exact - 1) < 1e-12) == plain, name
        assert plain or abs(found / exact - 1) > 0.2, name
    own_mean = (probs @ wrong)[-1]
    assert abs(own_mean / truth().gradient_norm_squared.item() - 1) > 0.05


def plugged_in(pool: PromptPool) -> tuple[float, ...]:
    """V, σ², s, τ, m, ‖g‖² as means over the pool; and ‖g‖² over i ≠ j about the mean of all."""
    centred, count = pool.rewards - pool.rewards.mean(), len(pool.rewards)
    pairs = centred[:, None] * centred * pool.products
    return (
        pool.rewards.mean(),
        (centred**2).mean(),
        pool.norms.mean(),
        (pool.norms * centred**2).mean(),
        (pool.norms * centred).mean(),
        pairs.sum() / (count * (count - 1)),
        (pairs.sum() - pairs.trace()) / (count * (count - 1)),
    )


def test_prompt_noise_is_linear_in_unbiased_parts():
    """c₁ = mean ‖g(x)‖² − mean of T_k·T_l over k ≠ l; without a part, over the others."""
    _, pools = every_pool(4)
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(NUM_BLOCKS, 3))
    found = pool_moments(Pool(pools, parts @ parts.T))
    for block, moments in enumerate([found.moments, *found.left_out]):
        kept = np.delete(parts, block - 1, axis=0) if block else parts
        pairs = [a @ b for i, a in enumerate(kept) for j, b in enumerate(kept) if i != j]
        expected = moments.gradient_norm_squared.mean() - np.mean(pairs)
        assert moments.prompt_noise == pytest.approx(expected, rel=1e-12)
        assert moments.outcome is None
        assert moments.prompt_probs.tolist() == [1 / len(pools)] * len(pools)


def two_prompts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs (solution, failure, failure) to two prompts: probabilities, norms, and Z."""
    probs = np.array([[0.2, 0.5, 0.3], [0.85, 0.05, 0.1]])
    norms = np.array([[3.0, 1.0, 2.5], [0.4, 9.0, 1.0]])
    return probs, norms, np.array([1.0, 0.0, 0.0])


def exact_moments(objective: float = 0.1) -> Moments:
    """What `exact_match_moments` estimates, by sums over outputs."""
    probs, norms, rewards = two_prompts()
    value = probs[:, 0]
    centred = rewards - value[:, None]
    gradient = value**2 * norms[:, 0]
    return Moments(
        prompt_probs=np.full(2, 0.5),
        value=value,
        reward_variance=(probs * centred**2).sum(axis=1),
        score_norm_squared=(probs * norms).sum(axis=1),
        oracle_norm_squared=(probs * norms * centred**2).sum(axis=1),
        score_norm_reward_covariance=(probs * norms * centred).sum(axis=1),
        gradient_norm_squared=gradient,
        prompt_noise=gradient.mean() - objective,
    )


def every_pair_of_pools(num_outputs: int):
    """All pools of M outputs to either prompt: probability, norms and failures (P, M)."""
    probs, norms, rewards = two_prompts()
    for drawn in product(range(3), repeat=2 * num_outputs):
        places = np.reshape(drawn, (2, num_outputs))
        chance = np.take_along_axis(probs, places, axis=1).prod()
        yield chance, np.take_along_axis(norms, places, axis=1), rewards[places] == 0


def test_exact_match_moments_are_unbiased_by_enumeration():
    """E over all 3⁶ pools of three outputs to two prompts, to 1e-12: whole, and without a part."""
    probs, norms, _ = two_prompts()
    totals = {(place, name): 0.0 for place in range(4) for name in (*MOMENTS, *OUTCOMES)}
    for chance, drawn, failed in every_pair_of_pools(3):
        found = exact_match_moments(probs[:, 0], norms[:, 0], drawn, failed, 0.1)
        for place, moments in enumerate((found.moments, *found.left_out[:3])):
            for name in (*MOMENTS, *OUTCOMES):
                home = moments if name in MOMENTS else moments.outcome
                totals[place, name] += chance * getattr(home, name)
            assert moments.prompt_noise == pytest.approx(exact_moments().prompt_noise, rel=1e-12)
    fails = 1 - probs[:, 0]
    failures = (probs[:, 1:] * norms[:, 1:]).sum(axis=1) / fails
    expected = {name: getattr(exact_moments(), name) for name in MOMENTS}
    expected |= dict(zip(OUTCOMES, (probs[:, 0], norms[:, 0], failures), strict=True))
    for (place, name), total in totals.items():
        np.testing.assert_allclose(total, expected[name], rtol=1e-12, err_msg=f"{name}, {place}")


def test_a_typical_norm_from_all_prompts_would_be_biased():
    """Mutant: c from the prompt's own pool too, in (‖W‖² − c)1{Z=0} and c(1 − V)."""
    probs, norms, _ = two_prompts()
    mean = np.zeros(2)
    for chance, drawn, failed in every_pair_of_pools(3):
        typical = (drawn * failed).sum() / max(failed.sum(), 1)
        mean += chance * (((drawn - typical) * failed).mean(axis=1) + typical * (1 - probs[:, 0]))
    exact = (probs[:, 1:] * norms[:, 1:]).sum(axis=1)
    assert np.abs(mean / exact - 1).max() > 0.01


def test_the_known_number_of_failures_takes_noise_away():
    """Where failures have like norms, σ of s is a fraction of that of the plain mean."""
    value, count = np.full(8, 0.6), 64
    rng = np.random.default_rng(0)
    plain, ours = [], []
    for _ in range(50):
        failed = rng.random((8, count)) > value[:, None]
        norms = rng.uniform(0.9, 1.1, size=(8, count))
        found = exact_match_moments(value, np.ones(8), norms, failed, 0.0).moments
        ours.append(found.score_norm_squared[0])
        plain.append(value[0] + (norms * failed)[0].mean())
    assert np.std(ours) < 0.5 * np.std(plain)


def test_moments_of_an_exact_pool_are_those_of_its_norms():
    """`measured_moments` of a pool and `norm_moments` of the same draws are one estimate."""
    model, _ = problem()
    by_norms = norm_moments(model, TASK, 64, rows_per_pass=5, rng=generator(7))
    by_pool = pool_moments(draw_pool(model, TASK, 64, rng=generator(7)))
    pairs = zip(
        (by_norms.moments, *by_norms.left_out), (by_pool.moments, *by_pool.left_out), strict=True
    )
    for ours, theirs in pairs:
        for name in (*MOMENTS, "prompt_noise"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)


def test_what_is_exact_is_that_of_the_enumeration():
    model, known = problem()
    found = norm_moments(model, TASK, 16, rng=generator()).moments
    expected = known.moments(matches())
    for name in ("value", "reward_variance", "gradient_norm_squared", "prompt_noise"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    norms = (known.scores**2).sum(axis=2)
    np.testing.assert_allclose(
        found.outcome.success_score_norm_squared, (matches() * norms).sum(axis=1), rtol=1e-9
    )


STATISTICS = {
    "s": lambda moments: moments.score_norm_squared.mean(),
    "tau": lambda moments: moments.oracle_norm_squared.mean(),
    "m": lambda moments: moments.score_norm_reward_covariance.mean(),
    "grpo": lambda moments: mse.grpo(moments, group_size=4).mean(),
    "best baseline": lambda moments: mse.optimal_baseline(moments, group_size=4).mean(),
    "best size": lambda moments: 1 + (moments.noise.residual / moments.noise.prompt) ** 0.5,
}


@pytest.mark.parametrize("reward", [MATCH, graded], ids=["exact", "sampled"])
def test_moments_against_the_enumeration_in_standard_errors(reward):
    """|z| ≤ 4 for moments, laws and G* from 1024 outputs; catches errors of 2 % to 8 %, of m 36 %.

    Mutants: norms instead of squared norms, and s for s·(1 − V).
    """
    model, known = problem()
    rewards = matches() if reward is MATCH else grades()
    pool = draw_pool(model, Task(PROMPTS, reward, 2), 1024, rng=generator(3))
    found = pool_moments(pool)
    for name, statistic in STATISTICS.items():
        estimate, std_error = found.estimate(statistic)
        exact = statistic(known.moments(rewards))
        assert abs(estimate - exact) <= 4 * std_error, name
        assert 0 < std_error < 0.03 * abs(exact) or name == "m", name
    estimate, std_error = found.estimate(STATISTICS["s"])
    exact = STATISTICS["s"](known.moments(rewards))
    lower = (known.probs * np.sqrt((known.scores**2).sum(axis=2))).sum(axis=1).mean() ** 2
    value = known.moments(rewards).value.mean()
    assert min(abs(estimate - wrong) for wrong in (lower, exact * (1 - value))) > 4 * std_error


def test_jackknife_of_a_mean_and_a_square_by_enumeration():
    """0/1 rewards, one output a part: pools differ in the number of successes only, so 17 of them.

    E std_error² = Var of the mean, and the estimate of V² has no bias, both to 1e-12. Mutants:
    without the correction it is off by σ²/M; with K in the place of K − 1 the variance is.
    """
    chance, count = 0.3, NUM_BLOCKS
    numbers = np.arange(count + 1)
    probs = stats.binom(count, chance).pmf(numbers)
    scores = np.array([[1 - chance], [-chance]])  # of success and of failure: E W = 0
    squares, errors, uncorrected = [], [], []
    for number in numbers:
        place = (np.arange(count) >= number).astype(int)
        pool = PromptPool(scores @ scores.T, place, 1.0 - place)
        found = pool_moments(Pool([pool], np.eye(NUM_BLOCKS)))
        mean, std_error = found.estimate(lambda moments: moments.value.item())
        assert mean == pytest.approx(number / count, abs=1e-12)
        errors.append(std_error**2)
        squares.append(found.estimate(lambda moments: moments.value.item() ** 2)[0])
        uncorrected.append(found.moments.value.item() ** 2)
    variance = chance * (1 - chance) / count
    assert probs @ errors == pytest.approx(variance, rel=1e-12)
    assert probs @ squares == pytest.approx(chance**2, rel=1e-12)
    assert probs @ uncorrected == pytest.approx(chance**2 + variance, rel=1e-12)
    assert probs @ errors * count / (count - 1) > 1.05 * variance


def drawn_moments(known: Enumerated, rng: np.random.Generator, count: int = 64):
    """Exact-match moments of outputs that are drawn from the enumeration, without a model."""
    places = np.stack(
        [rng.choice(probs.size, count, p=probs / probs.sum()) for probs in known.probs]
    )
    norms = (known.scores**2).sum(axis=2)
    right = matches().astype(bool)
    rows = np.arange(len(places))[:, None]
    return exact_match_moments(
        (known.probs * right).sum(axis=1), norms[right], norms[rows, places], ~right[rows, places],
        float((known.gradients(matches()).mean(axis=0) ** 2).sum()),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["s", "grpo", "best baseline", "best size"])
def test_error_bars_against_the_spread_of_independent_pools(name):
    """Mean of std_error² over the variance of 300 estimates, within its own interval.

    The ratio's standard deviation is √(2/299) ≈ 0.08 and more with heavy tails: catches a factor
    of 1.5 at most. Mutant: the spread of the estimates without a part, not times K − 1.
    """
    _, known = problem()
    rng = np.random.default_rng(11)
    pools = [drawn_moments(known, rng) for _ in range(300)]
    estimates, errors = np.array([each.estimate(STATISTICS[name]) for each in pools]).T
    spread = estimates.var(ddof=1)
    kurtosis = max(float(stats.kurtosis(estimates)), 0.0)
    deviation = np.sqrt((2 / 299 + kurtosis / 300) + np.var(errors**2) / 300 / spread**2)
    ratio = (errors**2).mean() / spread
    assert abs(ratio - 1) <= 4 * deviation < 0.5
    assert abs(ratio / (NUM_BLOCKS - 1) - 1) > 4 * deviation
    exact = STATISTICS[name](known.moments(matches()))
    assert abs(estimates.mean() - exact) <= 4 * np.sqrt(spread / 300)


def test_a_prompt_that_never_failed_is_no_special_case():
    """Its u comes from the other prompts; a single prompt that never failed has none."""
    norms, failed = np.full((2, 32), 5.0), np.zeros((2, 32), dtype=bool)
    failed[1, :8] = True
    found = exact_match_moments(np.array([0.9, 0.7]), np.ones(2), norms, failed, 0.0).moments
    assert found.score_norm_squared[0] == pytest.approx(0.9 + 5 * 0.1)
    alone = exact_match_moments(np.array([1.0]), np.ones(1), norms[:1], failed[:1], 1.0)
    for moments in (alone.moments, *alone.left_out):
        assert moments.score_norm_squared == [1.0]
        assert moments.outcome.failure_score_norm_squared == [0.0]
        assert moments.prompt_noise == 0.0


def test_rounding_makes_no_negative_prompt_noise():
    norms, failed = np.ones((1, 16)), np.zeros((1, 16), dtype=bool)
    found = exact_match_moments(np.array([0.5]), np.ones(1), norms, failed, 0.25 + 1e-12)
    assert found.moments.prompt_noise == 0.0


def test_too_few_outputs_are_refused():
    model, _ = problem()
    message = "num_outputs must be an integer of at least 16, got 15"
    with pytest.raises(ValueError, match=message):
        norm_moments(model, TASK, 15, rng=generator())


def test_rewards_of_other_prompts_are_refused():
    model, _ = problem()
    with pytest.raises(ValueError, match="prompts must be those of the 3 solutions, one each"):
        norm_moments(model, Task(PROMPTS[:2], MATCH, 2), 16, rng=generator())
