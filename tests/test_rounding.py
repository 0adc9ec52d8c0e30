"""What is zero, one or a tie up to rounding is taken for it, on whichever side it is left."""

from __future__ import annotations

import numpy as np
import pytest

from ustat_grpo import NoiseComponents, SoftmaxBandit, laws
from ustat_grpo.compiled.draws import alias_table
from ustat_grpo.inputs import checks
from ustat_grpo.laws import binary, group_size
from ustat_grpo.planner import Cost, plan
from ustat_grpo.planner.curve import Curve

ABOVE_ONE = np.nextafter(1.0, 2.0)


def test_problems_without_oracle_noise_have_moments():
    """Would catch: τ − ‖g‖² = −1e-17 refused, in a quarter of problems with sure rewards."""
    rng = np.random.default_rng(0)
    exactly_zero = 0
    for _ in range(500):
        prompts = int(rng.integers(1, 6))
        right = rng.integers(0, 2, (prompts, 2, 1)).astype(float)
        features = rng.standard_normal((prompts, 2, 3))
        weights = rng.dirichlet(np.ones(prompts))
        rewards = np.concatenate([1 - right, right], axis=-1)
        bandit = SoftmaxBandit(features, np.array([0.0, 1.0]), rewards, weights)
        noise = bandit.at(np.zeros(3)).noise  # τ = ‖g‖²: two actions, sure rewards, uniform
        exactly_zero += noise.oracle == 0.0
    assert exactly_zero == 500


def test_sure_success_is_a_probability():
    """Would catch: V = 1 + 2e-16 from a sum of probabilities, refused by every law of 0/1 rewards.

    The problems are those of which one in ten had such a value.
    """
    rng = np.random.default_rng(1)
    advantages = binary.std_normalised(4, eps=1e-4)
    for _ in range(200):
        size = int(rng.integers(2, 12))
        rewards = np.broadcast_to([0.0, 1.0], (3, size, 2))
        snapshot = SoftmaxBandit.tabular([0.0, 1.0], rewards).at(rng.normal(size=3 * size) * 3)
        assert (snapshot.moments.value <= 1.0).all()
        outcome = binary.outcome_moments(snapshot.moments)
        assert np.isfinite(binary.gain(advantages, outcome.success_probability)).all()
    for law in (lambda p: binary.gain(advantages, p), binary.limiting_objective,
                lambda p: binary.dead_group_probability(p, 4)):  # fmt: skip
        assert np.array_equal(law(ABOVE_ONE), law(1.0))
        assert np.array_equal(law(-1e-17), law(0.0))
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1\.00001"):
            law(1.00001)


@pytest.mark.parametrize("tiny", [-1e-15, -1e-17, 0.0])
def test_components_that_rounding_made_negative_are_zero(tiny):
    assert NoiseComponents(0.1, tiny, 0.5) == NoiseComponents(0.1, 0.0, 0.5)
    assert NoiseComponents(tiny, 0.1, 0.5) == NoiseComponents(0.0, 0.1, 0.5)
    with pytest.raises(ValueError, match=r"oracle noise must be finite .*, got -1e-09"):
        NoiseComponents(0.1, -1e-9, 0.5)


def test_prompt_noise_that_is_the_square_of_rounding_is_none():
    """Would catch: G* = 10¹⁶ on one processor and ∞ on another, for prompts that all agree."""
    same = np.broadcast_to([[0.7, 0.3], [0.2, 0.8]], (7, 2, 2))
    features = np.broadcast_to(np.random.default_rng(2).standard_normal((2, 3)), (7, 2, 3))
    probs = np.random.default_rng(3).dirichlet(np.ones(7))
    bandit = SoftmaxBandit(features, np.array([0.0, 1.0]), same, probs)
    noise = bandit.at(np.array([0.1, 0.2, 0.3])).noise
    assert noise.prompt == 0.0
    assert group_size.optimal(noise) == np.inf
    assert NoiseComponents(1e-20, 1.0, 1.0).prompt == 1e-20  # G* = 10¹⁰ is a number


def test_tied_group_sizes_do_not_depend_on_rounding():
    """Would catch: G = 2 or G = 3 by the last bit where c₃ = 2c₁ makes them equal."""
    for error in (-3e-16, 0.0, 3e-16):
        noise = NoiseComponents(1.0, 0.3, 2.0 * (1 + error))
        assert group_size.best_divisor(noise, budget=6) == 2
        assert Curve(noise, Cost(), largest=6).best_integer == 2
        assert plan(noise, budget=6).recommended == (3, 2)
    assert group_size.best_divisor(NoiseComponents(1.0, 0.3, 2.0001), budget=6) == 3


def test_crossover_with_a_vanilla_that_is_as_good():
    """Would catch: a crossover of 10¹⁶ for the ∞ of V²s + 2Vm = 0, when terms cancel to −1e-17."""
    bandit = SoftmaxBandit.tabular([-1.0, 1.0], [[[0.3, 0.7], [0.7, 0.3]]])
    moments = bandit.at(np.zeros(2)).moments  # V = 0 up to rounding
    assert group_size.vanilla_crossover(moments).tolist() == [np.inf]
    assert laws.mse.vanilla(moments, group_size=4) == pytest.approx(
        laws.mse.oracle(moments, group_size=4), rel=1e-12
    )


@pytest.mark.parametrize("columns", [2, 4, 8, 64])
def test_alias_tables_do_not_depend_on_rounding(columns):
    """Would catch: a full column that is 1 − 2⁻⁵³ on another processor, and becomes an alias.

    Then the same random numbers draw other outputs there.
    """
    rng = np.random.default_rng(columns)
    for _ in range(60):
        probs = np.zeros(columns)
        used = int(rng.integers(1, columns + 1))
        probs[:used] = rng.choice([0.5, 1.0, 2.0, 3.0, rng.random()], used)
        probs /= probs.sum()
        moved = probs * (1 + rng.choice([-2e-16, 0.0, 2e-16], columns))
        width = np.uint64(columns)
        aliases = [alias_table(each) % width for each in (probs, moved)]
        assert np.array_equal(*aliases)


def test_rows_of_equal_entries_are_largest_at_the_first():
    rows = np.array([[1.0, 1.0 + 2e-16], [1.0 + 2e-16, 1.0], [0.0, 1e-300], [-2.0, -2.0 - 4e-16]])
    assert checks.first_largest(rows).tolist() == [0, 0, 1, 0]
    assert checks.first_smallest(-rows).tolist() == [0, 0, 1, 0]


def test_what_is_left_of_a_sum():
    """Would catch: an absolute threshold, which small scales would all fall below."""
    assert checks.without_rounding([1e-17, 1e-3, -1e-17], 1.0).tolist() == [0.0, 1e-3, 0.0]
    assert checks.without_rounding(1e-17, 1e-17) == 1e-17
    assert checks.not_negative("x", [-1e-17, 2.0], scale=1.0).tolist() == [0.0, 2.0]
    with pytest.raises(ValueError, match="x must not be negative, got a smallest entry of -1e-17"):
        checks.not_negative("x", [-1e-17, 2.0], scale=1e-10)
    with pytest.raises(ValueError, match="x must not be negative, got nan"):
        checks.not_negative("x", np.nan, scale=1.0)
