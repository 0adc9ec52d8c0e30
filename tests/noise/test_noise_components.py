"""c₁, c₂, c₃ from samples: unbiased by enumeration, closed forms against loops, jackknife."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from support.noise_cases import (
    EveryGroup,
    every_group_of_every_prompt,
    flat_sample,
    random_scores,
    tiny_snapshot,
)
from ustat_grpo.moments import Moments
from ustat_grpo.noise import OutputSample, estimate_noise
from ustat_grpo.noise.components import (
    PromptStatistics,
    left_out_components,
    noise_components,
    prompt_statistics,
)

SIZES = (3, 5, 4, 3, 7, 3, 6, 4, 3, 5)
FIELDS = ("oracle_norm_squared", "spread", "gradient_norm_squared")


def truth(moments: Moments) -> np.ndarray:
    return np.array([moments.noise.prompt, moments.noise.oracle, moments.noise.residual])


def of_sample(sample: OutputSample) -> tuple:
    statistics = prompt_statistics(sample.groups, sample.score_norms, sample.gradient_norms)
    return statistics, sample.gradient_norms, sample.gradient_products, sample.partners


def per_prompt(moments: Moments) -> dict[str, np.ndarray]:
    return {
        "oracle_norm_squared": moments.oracle_norm_squared,
        "spread": moments.score_norm_squared * moments.reward_variance,
        "gradient_norm_squared": moments.gradient_norm_squared,
    }


@pytest.mark.parametrize("size", [3, 4, 5])
def test_moments_of_a_prompt_are_unbiased_over_every_group(size):
    """E of τ̂, ŝσ² and γ over all 4^M groups at both prompts, to 1e-12."""
    snapshot = tiny_snapshot()
    for x, every in enumerate(every_group_of_every_prompt(snapshot, size)):
        for name, expected in per_prompt(snapshot.moments).items():
            mean = every.probs @ getattr(every.statistics, name)
            assert mean == pytest.approx(expected[x], rel=1e-12), name


def wrong_moments(every: EveryGroup, size: int) -> list[tuple[str, np.ndarray]]:
    """What a slip gives in place of τ̂, ŝσ² or γ; the first of each kind is the plain choice."""
    groups, norms = every.groups, every.score_norms
    spread, gradient = every.statistics.spread, every.statistics.gradient_norm_squared
    diagonal = groups.totals(groups.weights**2 * norms)
    own_variance = groups.totals(groups.centred**2) / (size - 1)
    return [
        ("oracle_norm_squared", groups.totals(norms * groups.centred**2) / size),
        ("oracle_norm_squared", size * diagonal),  # about the mean of the others, j = k too
        ("oracle_norm_squared", size * diagonal - spread / size),
        ("spread", groups.totals(norms) / size * own_variance),
        ("gradient_norm_squared", every.gradient_norms),
        ("gradient_norm_squared", every.gradient_norms - diagonal),
        ("gradient_norm_squared", gradient * ((size - 1) ** 2 + 1) / (size - 1) ** 2),
    ]


def test_nearby_formulas_are_biased():
    """Mutants: each is off by more than 1 % of the moment at some prompt, at M = 4."""
    snapshot = tiny_snapshot()
    exact = per_prompt(snapshot.moments)
    found = [
        [every.probs @ values for _, values in wrong_moments(every, 4)]
        for every in every_group_of_every_prompt(snapshot, 4)
    ]
    names = [name for name, _ in wrong_moments(every_group_of_every_prompt(snapshot, 4)[0], 4)]
    for name, values in zip(names, np.transpose(found), strict=True):
        assert np.abs(values / exact[name] - 1).max() > 0.01, name


def mean_over_batches(sizes, components=noise_components) -> np.ndarray:
    """E of (c₁, c₂, c₃) over every draw of two prompts and of their groups of M = sizes."""
    snapshot = tiny_snapshot()
    first, second = (every_group_of_every_prompt(snapshot, size) for size in sizes)
    mean = np.zeros(3)
    for x, y in product(range(2), repeat=2):
        left, right = first[x], second[y]
        chance = snapshot.prompt_probs[x] * snapshot.prompt_probs[y]
        inner = left.gradients @ right.gradients.T
        stacked = [[getattr(each.statistics, name) for each in (left, right)] for name in FIELDS]
        for i, j in np.ndindex(inner.shape):
            statistics = PromptStatistics(*(np.array([a[i], b[j]]) for a, b in stacked))
            norms = np.array([left.gradient_norms[i], right.gradient_norms[j]])
            weight = chance * left.probs[i] * right.probs[j]
            mean += weight * components(statistics, norms, norms + inner[i, j], np.ones(2))
    return mean


@pytest.mark.parametrize("sizes", [(3, 3), (3, 4)])
def test_noise_is_unbiased_over_every_batch(sizes):
    """E of c₁, c₂, c₃ over every batch of two prompts, also of unequal groups, to 1e-12."""
    np.testing.assert_allclose(mean_over_batches(sizes), truth(tiny_snapshot().moments), rtol=1e-12)


def test_the_squared_norm_of_the_mean_gradient_is_no_unbiased_one():
    """Mutant: ‖∇J‖² from Σp/B², a prompt with itself included, takes far too much from c₁."""

    def plugged_in(statistics, norms, products, partners):
        whole = statistics.components.mean(axis=0)
        whole[0] -= products.sum() / len(norms) ** 2
        return whole

    found, exact = mean_over_batches((3, 3), plugged_in), truth(tiny_snapshot().moments)
    np.testing.assert_allclose(found[1:], exact[1:], rtol=1e-12)
    assert abs(found[0] / exact[0] - 1) > 0.5


def test_closed_forms_are_means_over_distinct_outputs(rng):
    """Loops over distinct i, j, k, and γ by its definition from them, at unequal M; to 1e-12."""
    scores, rewards = random_scores(rng, SIZES)
    sample = OutputSample.from_scores(scores, rewards)
    statistics = of_sample(sample)[0]
    for b, (w, z) in enumerate(zip(scores, rewards, strict=True)):
        size, norms = len(z), np.sum(w**2, axis=1)
        triples = list(permutations(range(size), 3))
        tau = np.mean([norms[i] * (z[i] - z[j]) * (z[i] - z[k]) for i, j, k in triples])
        spread = np.mean([norms[i] * (z[j] - z[k]) ** 2 / 2 for i, j, k in triples])
        mean_gradient = sum((z[i] - np.delete(z, i).mean()) * w[i] for i in range(size)) / size
        rest = mean_gradient @ mean_gradient - tau / size - spread / (size * (size - 1))
        gamma = rest / (1 - 1 / size + 1 / (size * (size - 1)))
        for name, expected in zip(FIELDS, (tau, spread, gamma), strict=True):
            assert getattr(statistics, name)[b] == pytest.approx(expected, rel=1e-12), name


def test_the_gradient_product_of_prompts_is_the_mean_over_distinct_pairs(rng):
    scores, rewards = random_scores(rng, SIZES)
    sample = OutputSample.from_scores(scores, rewards)
    gradients = [(z - z.mean()) @ w / (len(z) - 1) for w, z in zip(scores, rewards, strict=True)]
    pairs = [a @ b for a, b in permutations(gradients, 2)]
    statistics, *others = of_sample(sample)
    found = statistics.gradient_norm_squared.mean() - noise_components(statistics, *others)
    assert found[0] == pytest.approx(np.mean(pairs), rel=1e-12)


def test_leaving_a_prompt_out_is_estimating_without_it(rng):
    """Each of the ten deletions done on the scores; to 1e-12 of the largest."""
    scores, rewards = random_scores(rng, SIZES)
    found = left_out_components(*of_sample(OutputSample.from_scores(scores, rewards)))
    for b in range(len(SIZES)):
        kept = OutputSample.from_scores(
            [each for c, each in enumerate(scores) if c != b],
            [each for c, each in enumerate(rewards) if c != b],
        )
        expected = noise_components(*of_sample(kept))
        np.testing.assert_allclose(found[b], expected, atol=1e-12 * np.abs(found).max(), rtol=0)


def test_covariance_is_that_of_the_jackknife(rng):
    """(B−1)/B Σ (left − mean)(left − mean)ᵀ, by a loop over the deletions."""
    sample = flat_sample(rng, SIZES)
    estimate = estimate_noise(sample)
    left = left_out_components(*of_sample(sample))
    count = len(left)
    expected = sum(np.outer(each, each) for each in left - left.mean(axis=0))
    expected = expected * (count - 1) / count
    np.testing.assert_allclose(estimate.covariance, expected, rtol=1e-12)
    np.testing.assert_allclose(estimate.std_errors**2, expected.diagonal(), rtol=1e-12)
    values = [estimate.prompt, estimate.oracle, estimate.residual]
    np.testing.assert_allclose(values, noise_components(*of_sample(sample)), rtol=1e-12)
    assert estimate.contributions.shape == (count, 3)


def test_reward_shift_does_not_matter_and_scale_does(rng):
    """Z + 10⁶ changes nothing to 1e-8; 3Z multiplies everything by 9."""
    scores, rewards = random_scores(rng, SIZES)
    plain, shifted, scaled = (
        estimate_noise(OutputSample.from_scores(scores, [change(z) for z in rewards]))
        for change in (lambda z: z, lambda z: z + 1e6, lambda z: 3 * z)
    )
    for name in ("prompt", "oracle", "residual"):
        value = getattr(plain, name)
        assert getattr(shifted, name) == pytest.approx(value, rel=1e-8)
        assert getattr(scaled, name) == pytest.approx(9 * value, rel=1e-12)


def test_an_equal_group_has_no_noise_at_all(rng):
    """0.1 is not exact in binary: its mean must not leave a trace in a dead group."""
    scores, rewards = random_scores(rng, SIZES)
    rewards[2] = np.full(SIZES[2], 0.1)
    statistics = of_sample(OutputSample.from_scores(scores, rewards))[0]
    assert [getattr(statistics, name)[2] for name in FIELDS] == [0.0, 0.0, 0.0]


class TestPairsOfOutputs:
    """At M = 2 two worlds look the same and differ in c₂ and c₃.

    ‖W‖² = 1 + Z with a random sign, Z ~ Bernoulli(V): the law of a pair of outputs depends on E V
    and E V² only, but E[τ] = E[2V − 3V² + V³] and E[sσ²] = E[V − V³].
    """

    WORLDS = (
        (np.array([0.25, 0.75]), np.array([0.5, 0.5])),
        (np.array([1.0, 0.375]), np.array([0.2, 0.8])),
    )

    @staticmethod
    def law_of_pairs(values, probs):
        """Chances of (Z₁, Z₂): the rest of a pair, signs and norms, adds nothing."""
        return np.array(
            [
                probs @ np.prod([values if z else 1 - values for z in pair], axis=0)
                for pair in product((0, 1), repeat=2)
            ]
        )

    @staticmethod
    def components(values, probs):
        """c₂ and c₃ by sums over Z; g(x) = 0 because signs are random."""
        rewards, chances = np.array([0.0, 1.0]), np.stack([1 - values, values])
        norms = (1 + rewards)[:, None]
        tau = (chances * norms * (rewards[:, None] - values) ** 2).sum(axis=0)
        spread = (chances * norms).sum(axis=0) * values * (1 - values)
        return probs @ tau, probs @ spread

    def test_pairs_cannot_tell_them_apart(self):
        first, second = (self.law_of_pairs(*world) for world in self.WORLDS)
        np.testing.assert_allclose(first, second, rtol=1e-12)

    def test_only_their_sum_is_the_same(self):
        first, second = (self.components(*world) for world in self.WORLDS)
        assert sum(first) == pytest.approx(sum(second), rel=1e-12)
        assert abs(first[0] - second[0]) > 0.02
        assert abs(first[1] - second[1]) > 0.02

    def test_their_sum_is_what_pairs_estimate(self):
        """E mean n_i (Z_i − Z_j)² = τ + sσ² over every pair at both prompts of a bandit."""
        snapshot = tiny_snapshot()
        exact = per_prompt(snapshot.moments)
        for x, every in enumerate(every_group_of_every_prompt(snapshot, 2)):
            squares = (every.groups.weights * 2) ** 2 * every.score_norms
            found = every.probs @ every.groups.totals(squares) / 2
            expected = exact["oracle_norm_squared"][x] + exact["spread"][x]
            assert found == pytest.approx(expected, rel=1e-12)


def test_components_as_the_laws_take_them(rng):
    """c₁ follows from G*: at a given G* the laws find that G*; c₂ is never negative."""
    from ustat_grpo.laws import group_size

    estimate = estimate_noise(flat_sample(rng, SIZES))
    assert group_size.optimal(estimate.components(17.0)) == pytest.approx(17, rel=1e-12)
    assert estimate.components(np.inf).prompt == 0
    value = estimate.optimal.value
    assert group_size.optimal(estimate.components()) == pytest.approx(value, rel=1e-12)
    negative = replace(estimate, contributions=-estimate.contributions)
    with pytest.raises(ValueError, match="residual noise must be positive, got -"):
        negative.components()
    mixed = estimate.contributions * [1, -1, 1]
    assert replace(estimate, contributions=mixed).components().oracle == 0
    with pytest.raises(ValueError, match=r"optimal must be above 1, got 1\.0"):
        estimate.components(1.0)
