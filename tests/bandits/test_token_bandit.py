"""Token bandits against explicit loops, a one-token softmax bandit, and enumerated groups."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from theory.enumeration import Outcomes, gradient_distribution
from theory.token_problems import at_zero
from ustat_grpo import Grpo, SoftmaxBandit, laws
from ustat_grpo.bandits.token_bandit import TokenBandit, random_token_bandit
from ustat_grpo.optimization.token_updates import (
    mean_ascent,
    mean_path,
    mean_penalty,
    penalty_slopes,
    ratio_weights,
    weighted_scores,
)


def problem(rng, num_tokens=3, num_values=2, dimension=4):
    """Return a bandit of two prompts, and θ."""
    bandit = random_token_bandit(2, num_tokens, num_values=num_values, dimension=dimension, rng=rng)
    return bandit, rng.normal(size=dimension)


def exact(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


def by_loops(bandit, theta, prompt, output):
    """Return the tokens' log-probabilities and scores of one output, prefix by prefix."""
    num_values = bandit.features.shape[2]
    length = round(np.log(bandit.rewards.shape[1]) / np.log(num_values))
    tokens = list(product(range(num_values), repeat=length))[output]
    prefixes = [p for n in range(length) for p in product(range(num_values), repeat=n)]
    log_probs, scores = [], []
    for place, token in enumerate(tokens):
        row = prefixes.index(tokens[:place])
        features = bandit.features[prompt, row]
        weights = np.exp(features @ theta + bandit.offsets[prompt, row])
        probs = weights / weights.sum()
        log_probs.append(np.log(probs[token]))
        scores.append(features[token] - probs @ features)
    return log_probs, scores


@pytest.mark.parametrize(("num_tokens", "num_values"), [(3, 2), (2, 3), (1, 4)])
def test_outputs_against_loops(num_tokens, num_values, rng):
    """Would catch: a prefix of the wrong row, tokens in reverse order, a score without its mean."""
    bandit, theta = problem(rng, num_tokens, num_values)
    snapshot = bandit.at(theta)
    for prompt, output in np.ndindex(bandit.rewards.shape):
        log_probs, scores = by_loops(bandit, theta, prompt, output)
        exact(snapshot.token_log_probs[prompt, output], log_probs)
        exact(snapshot.token_scores[prompt, output], scores)
    exact(snapshot.output_probs.sum(axis=-1), 1.0)


def test_gradient_is_the_derivative_of_the_objective(rng):
    """Would catch: a factor, or a missing prompt probability."""
    bandit, theta = problem(rng)
    bandit = TokenBandit(bandit.features, bandit.rewards, [0.3, 0.7], bandit.offsets)
    step = 1e-6

    def objective(at):
        return bandit.prompt_probs @ bandit.at(at).value

    slopes = [
        (objective(theta + step * e) - objective(theta - step * e)) / (2 * step) for e in np.eye(4)
    ]
    np.testing.assert_allclose(bandit.at(theta).gradient, slopes, rtol=0, atol=1e-9)


def test_one_token_is_a_softmax_bandit(rng):
    bandit, theta = problem(rng, num_tokens=1, num_values=4)
    levels = np.stack([1 - bandit.rewards, bandit.rewards], axis=-1)
    plain = SoftmaxBandit(
        bandit.features[:, 0], [0.0, 1.0], levels, bandit.prompt_probs, bandit.offsets[:, 0]
    ).at(theta)
    ours = bandit.at(theta)
    exact(ours.output_probs, plain.action_probs)
    exact(ours.gradient, plain.gradient)
    for name in ("prompt", "oracle", "residual"):
        exact(getattr(ours.noise, name), getattr(plain.noise, name))


def test_noise_against_every_group(rng):
    """Several tokens. Would catch: norms of single tokens' scores in place of their sum's."""
    bandit, theta = problem(rng, num_tokens=2)
    snapshot = bandit.at(theta)
    errors = []
    for prompt in range(2):
        possible = Outcomes(
            snapshot.scores[prompt], snapshot.rewards[prompt], snapshot.output_probs[prompt]
        )
        found = gradient_distribution(Grpo(), possible, group_size=3)
        errors.append(found.error(snapshot.gradient))
    law = laws.group_size.error_at_budget(snapshot.noise, group_size=3.0, budget=3)
    exact(np.mean(errors), law)


class TestUpdates:
    @pytest.fixture
    def policies(self, rng):
        """π_θ, π_old and π_ref."""
        bandit, theta = problem(rng)
        return tuple(bandit.at(theta + shift) for shift in (0.3, 0.0, -0.4))

    def test_ratios_against_loops(self, policies):
        now, old, _ = policies
        ours, theirs = np.exp(now.token_log_probs), np.exp(old.token_log_probs)
        exact(ratio_weights(now, old, "token"), ours / theirs)
        exact(ratio_weights(now, old, "none"), np.ones_like(ours))
        whole = now.output_probs / old.output_probs
        exact(ratio_weights(now, old, "sequence"), whole[..., None] * np.ones(3))

    def test_baseline_adds_nothing_to_weighted_scores(self, policies):
        """Would catch: ratios under the wrong policy, for which E_old[Σρw∣x] is not 0."""
        now, old, _ = policies
        for ratio in ("token", "sequence"):
            exact(np.einsum("pm,pmd->pd", old.output_probs, weighted_scores(now, old, ratio)), 0.0)
        mutant = np.einsum("pm,pmd->pd", old.output_probs, weighted_scores(old, now, "token"))
        assert np.abs(mutant).max() > 1e-3

    def test_sequence_ratio_is_unbiased_and_token_ratio_is_not(self, policies):
        now, old, _ = policies
        exact(mean_ascent(now, old, "sequence"), now.gradient)
        assert np.abs(mean_ascent(now, old, "token") - now.gradient).max() > 1e-3

    def test_baseline_matters_without_ratio(self, policies):
        now, old, _ = policies
        given = mean_ascent(now, old, "none", old.rewards)
        assert np.abs(given - mean_ascent(now, old, "none")).max() > 1e-3

    def test_penalty_slopes_are_derivatives(self, policies):
        """Of k(ℓ) as `ustat_grpo.optimization.practice.PENALTIES` states it."""
        now, _, reference = policies
        drift, step = now.token_log_probs - reference.token_log_probs, 1e-6
        penalties = {
            "k1": lambda d: d,
            "k2": lambda d: d**2 / 2,
            "k3": lambda d: np.exp(-d) - 1 + d,
        }
        for name, penalty in penalties.items():
            slopes = (penalty(drift + step) - penalty(drift - step)) / (2 * step)
            found = penalty_slopes(now, reference, name)
            np.testing.assert_allclose(found, slopes, rtol=0, atol=1e-8)

    def test_mean_penalties_of_one_token_are_gradients_of_divergences(self, rng):
        """K2's is ∇KL(π_θ ‖ π_ref), K3's ∇KL(π_ref ‖ π_θ), K1's zero, by differences."""
        bandit, theta = problem(rng, num_tokens=1, num_values=3)
        reference, now, step = bandit.at(theta - 0.4), bandit.at(theta), 1e-6

        def divergence(left, right):
            gap = left.token_log_probs[..., 0] - right.token_log_probs[..., 0]
            return bandit.prompt_probs @ np.sum(left.output_probs * gap, axis=-1)

        ends = [(bandit.at(theta + step * e), bandit.at(theta - step * e)) for e in np.eye(4)]
        forward = [divergence(u, reference) - divergence(d, reference) for u, d in ends]
        reverse = [divergence(reference, u) - divergence(reference, d) for u, d in ends]
        for name, gaps in (("k1", np.zeros(4)), ("k2", forward), ("k3", reverse)):
            found = mean_penalty(now, now, reference, name)
            np.testing.assert_allclose(found, np.array(gaps) / (2 * step), rtol=0, atol=1e-8)

    def test_path_begins_at_the_old_policy(self, rng):
        """Would catch: an update too many, a rate that is squared."""
        bandit, theta = problem(rng)
        path = mean_path(
            bandit, theta, lambda now, old: now.gradient, learning_rate=0.2, num_minibatches=3
        )
        second = theta + 0.2 * bandit.at(theta).gradient
        third = second + 0.2 * bandit.at(second).gradient
        for found, wanted in zip(path, (theta, second, third), strict=True):
            exact(found.token_log_probs, bandit.at(wanted).token_log_probs)

    def test_unknown_names(self, policies):
        now, old, reference = policies
        with pytest.raises(ValueError, match=r"^ratio must be one of .*, got 'tokens'$"):
            ratio_weights(now, old, "tokens")
        with pytest.raises(ValueError, match=r"^penalty must be one of .*, got 'k4'$"):
            mean_penalty(now, old, reference, "k4")


MISTAKES = {
    "rewards must hold one for each of K^T outputs, K = 2, got 3": ((1, 1, 2, 2), (1, 3), None),
    "features must hold 3 prefixes for outputs of 2 tokens of 2 values, got 2": (
        (1, 2, 2, 2), (1, 4), None,
    ),
    "arrays must agree on the number of prompts, got: features has 2, rewards has 1, "
    "prompt_probs has 2": ((2, 1, 2, 2), (1, 2), None),
    "offsets must have the shape (1, 1, 2), got (1, 1, 3)": ((1, 1, 2, 2), (1, 2), (1, 1, 3)),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_quote_requirement_and_value(message):
    features, rewards, offsets = MISTAKES[message]
    with pytest.raises(ValueError) as error:
        TokenBandit(
            np.zeros(features),
            np.zeros(rewards),
            offsets=None if offsets is None else np.zeros(offsets),
        )
    assert str(error.value) == message


def test_theta_of_another_length(rng):
    bandit, theta = problem(rng)
    with pytest.raises(ValueError, match=r"^theta must have length 4, got 3$"):
        bandit.at(theta[:3])


def test_limits_by_extrapolation():
    """Would catch: weights of a wrong order, which leave an error of 1e-5 and more."""
    assert float(at_zero(lambda x: (np.exp(3 * x) - 1) / x)) == pytest.approx(3, abs=1e-10)
