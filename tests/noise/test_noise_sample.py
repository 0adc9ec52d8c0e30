"""Samples: ways to make one, and what is refused."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from support.noise_cases import random_scores
from ustat_grpo.noise import OutputSample, estimate_noise
from ustat_grpo.noise.components import (
    left_out_components,
    noise_components,
    prompt_statistics,
)

SIZES = (3, 5, 4, 3, 7, 3, 6, 4)


def fields(rng, **changes) -> dict:
    scores, rewards = random_scores(rng, SIZES)
    sample = OutputSample.from_scores(scores, rewards)
    names = ("rewards", "score_norms", "prompts", "gradient_norms", "gradient_products")
    return {name: getattr(sample, name).copy() for name in names} | changes


def test_gram_and_scores_give_the_same(rng):
    """Every field to 1e-12, and the estimate."""
    scores, rewards = random_scores(rng, SIZES)
    first = OutputSample.from_scores(scores, rewards)
    flat = np.concatenate(scores)
    second = OutputSample.from_gram(flat @ flat.T, np.concatenate(rewards), first.prompts)
    for name in ("rewards", "score_norms", "gradient_norms", "gradient_products"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name), rtol=1e-12)
    assert estimate_noise(second).prompt == pytest.approx(estimate_noise(first).prompt, rel=1e-11)


def test_order_and_names_of_outputs_do_not_matter(rng):
    """Outputs shuffled, ids in words: groups are found again, in order of first appearance."""
    scores, rewards = random_scores(rng, SIZES)
    flat, values = np.concatenate(scores), np.concatenate(rewards)
    ids = np.repeat([f"prompt {9 - b}" for b in range(len(SIZES))], SIZES)
    order = rng.permutation(len(values))
    plain = OutputSample.from_gram(flat @ flat.T, values, ids)
    shuffled = OutputSample.from_gram(flat[order] @ flat[order].T, values[order], ids[order])
    first = [ids[order].tolist().index(each) for each in dict.fromkeys(ids)]
    place = np.argsort(np.argsort(first))
    np.testing.assert_allclose(shuffled.gradient_norms[place], plain.gradient_norms, rtol=1e-11)
    found, expected = estimate_noise(shuffled), estimate_noise(plain)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9)
    assert found.prompt == pytest.approx(expected.prompt, rel=1e-9)


def test_is_frozen_and_a_copy(rng):
    given = fields(rng)
    sample = OutputSample(**given)
    before = sample.rewards[0]
    given["rewards"][0] = 99.0
    assert sample.rewards[0] == before
    with pytest.raises(AttributeError):
        sample.rewards = given["rewards"]


def changed(values, place, value):
    values = np.array(values, dtype=float)
    values[place] = value
    return values


@pytest.mark.parametrize("name", ["rewards", "score_norms", "gradient_norms", "gradient_products"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_what_is_not_finite(rng, name, value):
    given = fields(rng)
    with pytest.raises(ValueError, match=f"{name} must be finite, got 1 NaN or infinity"):
        OutputSample(**given | {name: changed(given[name], 2, value)})


@pytest.mark.parametrize("name", ["score_norms", "gradient_norms"])
def test_refuses_negative_norms(rng, name):
    given = fields(rng)
    with pytest.raises(
        ValueError, match=rf"{name} must not be negative, got a smallest entry of -0.5"
    ):
        OutputSample(**given | {name: changed(given[name], 2, -0.5)})


def test_norms_that_are_all_zero_are_no_signal(rng):
    given = fields(rng)
    silent = OutputSample(**given | {"score_norms": 0 * given["score_norms"]})
    with pytest.raises(ValueError, match="score_norms must not all be zero: no signal, no plan"):
        estimate_noise(silent)


def test_refuses_what_does_not_fit(rng):
    given = fields(rng)
    with pytest.raises(ValueError, match="agree on the number of outputs"):
        OutputSample(**given | {"score_norms": given["score_norms"][1:]})
    with pytest.raises(ValueError, match="agree on the number of prompts"):
        OutputSample(**given | {"gradient_norms": given["gradient_norms"][1:]})
    with pytest.raises(ValueError, match=r"prompts must have the shape of rewards, \(35,\)"):
        OutputSample(**given | {"prompts": given["prompts"][1:]})
    with pytest.raises(ValueError, match=r"gram must have shape \(35, 35\), got \(34, 34\)"):
        OutputSample.from_gram(np.eye(34), given["rewards"], given["prompts"])
    scores, rewards = random_scores(rng, SIZES)
    with pytest.raises(ValueError, match="scores has 8, rewards has 7"):
        OutputSample.from_scores(scores, rewards[1:])
    with pytest.raises(ValueError, match=r"scores\[0\] has 3, rewards\[0\] has 2"):
        OutputSample.from_scores(scores, [rewards[0][1:], *rewards[1:]])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((*SIZES, 1), "at least 3 outputs: .* got 1 for prompt 8"),
        ((*SIZES, 2), "only the sum c₂ \\+ c₃ can be learned, not each; got 2 for prompt 8"),
        ((3,), "every batch must have at least 2 prompts, got 1"),
    ],
)
def test_refuses_too_few(rng, sizes, message):
    with pytest.raises(ValueError, match=message):
        OutputSample.from_scores(*random_scores(rng, sizes))


def test_fewer_than_eight_prompts_give_no_estimate(rng):
    sample = OutputSample.from_scores(*random_scores(rng, SIZES[1:]))
    with pytest.raises(ValueError, match="at least 8 different prompts, got 7"):
        estimate_noise(sample)


def test_rewards_without_signal_give_no_estimate(rng):
    scores, rewards = random_scores(rng, SIZES)
    equal = OutputSample.from_scores(scores, [np.full(len(z), 0.1) for z in rewards])
    with pytest.raises(ValueError, match=r"not all be equal, got 0\.1 throughout: no signal"):
        estimate_noise(equal)
    dead = OutputSample.from_scores(scores, [np.full(len(z), z[0]) for z in rewards])
    with pytest.raises(ValueError, match="equal ones in every group: no signal, no plan"):
        estimate_noise(dead)


class TestBatches:
    """Prompts that were measured a few at a time."""

    IDS = ("a", "b", "a", "c", "b", "c", "a", "c")

    def test_products_within_batches_are_all_that_is_asked_for(self, rng):
        """‖∇J‖² as the mean of ĝ_b·ĝ_c over pairs of one batch, by a loop."""
        sample, gradients = self.measured(rng)
        pairs = [
            gradients[b] @ gradients[c]
            for b, c in permutations(range(len(SIZES)), 2)
            if self.IDS[b] == self.IDS[c]
        ]
        statistics = prompt_statistics(sample.groups, sample.score_norms, sample.gradient_norms)
        found = noise_components(
            statistics, sample.gradient_norms, sample.gradient_products, sample.partners
        )
        expected = statistics.gradient_norm_squared.mean() - np.mean(pairs)
        assert found[0] == pytest.approx(expected, rel=1e-12)
        assert sample.partners.tolist() == [2, 1, 2, 2, 1, 2, 2, 2]

    def test_leaving_a_prompt_out_leaves_its_pairs_out(self, rng):
        """The fourth prompt deleted by hand: its batch has two prompts left, and one pair."""
        sample, gradients = self.measured(rng)
        kept = [b for b in range(len(SIZES)) if b != 3]
        pairs = [
            gradients[b] @ gradients[c]
            for b, c in permutations(kept, 2)
            if self.IDS[b] == self.IDS[c]
        ]
        statistics = prompt_statistics(sample.groups, sample.score_norms, sample.gradient_norms)
        found = left_out_components(
            statistics, sample.gradient_norms, sample.gradient_products, sample.partners
        )
        expected = statistics.gradient_norm_squared[kept].mean() - np.mean(pairs)
        assert found[3, 0] == pytest.approx(expected, rel=1e-12)

    def measured(self, rng) -> tuple[OutputSample, np.ndarray]:
        given = fields(rng)
        whole = OutputSample(**given)
        rng = np.random.default_rng(5)
        gradients = rng.normal(size=(len(SIZES), 3))
        total = {name: sum(g for g, i in zip(gradients, self.IDS, strict=True) if i == name)
                 for name in set(self.IDS)}  # fmt: skip
        products = [g @ total[name] for g, name in zip(gradients, self.IDS, strict=True)]
        changes = {
            "gradient_norms": np.sum(gradients**2, axis=1),
            "gradient_products": products,
            "batches": self.IDS,
        }
        return replace(whole, **changes), gradients

    def test_one_batch_is_no_batch(self, rng):
        given = fields(rng)
        named = OutputSample(**given, batches=["only"] * len(SIZES))
        expected = estimate_noise(OutputSample(**given)).covariance
        np.testing.assert_array_equal(estimate_noise(named).covariance, expected)

    def test_joined_samples_keep_their_batches_apart(self, rng):
        """Equal ids in both samples are different prompts."""
        scores, rewards = random_scores(rng, SIZES)
        whole = OutputSample.from_scores(scores, rewards)
        parts = [OutputSample.from_scores(scores[s], rewards[s]) for s in (slice(3), slice(3, 8))]
        joined = OutputSample.joined([OutputSample.joined(parts), whole])
        assert len(joined.groups.sizes) == 16
        assert joined.partners.tolist() == [2] * 3 + [4] * 5 + [7] * 8
        np.testing.assert_array_equal(joined.gradient_norms[:8], parts_of(parts, "gradient_norms"))
        np.testing.assert_array_equal(joined.score_norms[35:], whole.score_norms)
        assert estimate_noise(joined).oracle == pytest.approx(estimate_noise(whole).oracle)

    def test_refuses_a_prompt_on_its_own(self, rng):
        alone = (*self.IDS[:-1], "alone")
        with pytest.raises(ValueError, match="every batch must have at least 2 prompts, got 1"):
            OutputSample(**fields(rng), batches=alone)
        with pytest.raises(ValueError, match="agree on the number of prompts"):
            OutputSample(**fields(rng), batches=alone[1:])
        with pytest.raises(ValueError, match="samples must hold at least one, got none"):
            OutputSample.joined([])


def parts_of(samples, name: str) -> np.ndarray:
    return np.concatenate([getattr(each, name) for each in samples])
