"""The dial of `random_bandit` for the optimal group size."""

from __future__ import annotations

import numpy as np
import pytest

from ustat_grpo import SoftmaxBandit, random_bandit

SIZES = [(16, 2), (16, 8), (64, 16)]
every_size = pytest.mark.parametrize(("num_prompts", "num_actions"), SIZES)
LEAST = 2.49  # what a target of 2 gives: no problem has a smaller G* than 1 + √2


def optimal_group_size(bandit: SoftmaxBandit) -> float:
    """1 + √(c₃/c₁) at θ = 0, with c₁ and c₃ summed over prompts by their definitions."""
    snapshot = bandit.at(np.zeros(bandit.dimension))
    gradients = np.zeros((len(bandit.prompt_probs), bandit.dimension))
    for x, block in enumerate(snapshot.prompt_gradients):
        gradients[x, x * len(block) : (x + 1) * len(block)] = block
    deviations = gradients - bandit.prompt_probs @ gradients
    prompt = bandit.prompt_probs @ (deviations**2).sum(axis=1)
    norm = (snapshot.action_probs * (snapshot.dense_scores() ** 2).sum(axis=-1)).sum(axis=-1)
    variance = snapshot.value * (1 - snapshot.value)  # rewards are 0 and 1
    residual = bandit.prompt_probs @ (norm * variance + (gradients**2).sum(axis=1))
    return 1 + np.sqrt(residual / prompt)


@every_size
@pytest.mark.parametrize("target", [2, 2.5, 3, 8, 32, 128])
@pytest.mark.parametrize("seed", [0, 1])
def test_dial_reaches_its_target(num_prompts, num_actions, target, seed):
    """To 1e-6. Would catch: √(c₃/c₁) without the 1, a bracket that ends before the target."""
    rng = np.random.default_rng([seed, num_prompts, num_actions])
    bandit = random_bandit(num_prompts, num_actions, group_size_target=target, rng=rng)
    assert bandit.reward_probs.shape == (num_prompts, num_actions, 2)
    assert optimal_group_size(bandit) == pytest.approx(max(target, LEAST), rel=1e-6)
    assert target > 2 or round(optimal_group_size(bandit)) == 2


def test_default_target_is_eight(rng):
    assert optimal_group_size(random_bandit(16, 4, rng=rng)) == pytest.approx(8, rel=1e-6)


@every_size
def test_draw_is_determined_by_the_stream(num_prompts, num_actions):
    """Would catch: a global seed, or randomness beside `rng`."""

    def draw(seed):
        return random_bandit(num_prompts, num_actions, rng=np.random.default_rng(seed))

    one, same, other = draw(3), draw(3), draw(4)
    for name in ("reward_levels", "reward_probs", "prompt_probs", "offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name), err_msg=name)
    assert not np.array_equal(one.offsets, other.offsets)
    assert not np.array_equal(one.reward_probs, other.reward_probs)


def test_dial_moves_no_draw():
    """Problems of one seed and different small targets differ in the reward's signal only.

    Would catch: a target that consumes randomness, so that targets are no longer comparable.
    """
    one, other = (
        random_bandit(16, 4, group_size_target=target, rng=np.random.default_rng(0))
        for target in (64, 128)
    )
    np.testing.assert_array_equal(one.offsets, other.offsets)
    assert not np.array_equal(one.reward_probs, other.reward_probs)


@every_size
def test_every_prompt_has_right_and_wrong_actions(num_prompts, num_actions, rng):
    """Would catch: prompts that are all right or all wrong, which teach nothing at any θ."""
    success = random_bandit(num_prompts, num_actions, rng=rng).reward_probs[..., 1]
    assert (success.max(axis=1) > success.min(axis=1)).all()
    assert len(np.unique(success.round(12))) > num_prompts  # base rates differ between prompts


def test_rng_is_a_required_keyword(rng):
    with pytest.raises(TypeError, match="required keyword-only argument: 'rng'"):
        random_bandit(16, 4)
    with pytest.raises(TypeError, match="positional argument"):
        random_bandit(16, 4, 8.0, rng)


@pytest.mark.parametrize(("num_prompts", "target"), [(2, 2), (2, 2.9), (2, 3), (3, 2.7), (10, 2)])
def test_too_few_prompts_for_a_small_group_size(num_prompts, target, rng):
    """A tabular problem of P equally likely prompts has G* > 1 + √(2P/(P - 1))."""
    least = 1 + np.sqrt(2 * num_prompts / (num_prompts - 1))
    with pytest.raises(ValueError) as error:
        random_bandit(num_prompts, 4, group_size_target=target, rng=rng)
    assert str(error.value) == (
        f"group_size_target must be at least 2, above {least:.3f} for {num_prompts} prompts, "
        f"and at most 1e+06, got {target}"
    )
    reached = random_bandit(num_prompts, 4, group_size_target=least + 0.01, rng=rng)
    assert optimal_group_size(reached) == pytest.approx(max(least + 0.01, LEAST), rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "target", "message"),
    [
        ((1, 4), 8, "^num_prompts must be an integer of at least 2, got 1$"),
        ((16, 1), 8, "^num_actions must be an integer of at least 2, got 1$"),
        ((16.0, 4), 8, "^num_prompts must be an integer of at least 2, got 16.0$"),
        ((16, 4), 1.9, r"^group_size_target must be at least 2, .* got 1\.9$"),
        ((16, 4), np.nan, "^group_size_target must be a finite number, got nan$"),
        ((16, 4), np.inf, "^group_size_target must be a finite number, got inf$"),
    ],
)
def test_bad_arguments_are_refused(sizes, target, message, rng):
    with pytest.raises(ValueError, match=message):
        random_bandit(*sizes, group_size_target=target, rng=rng)


def test_target_beyond_the_dial_is_refused_by_name(rng):
    with pytest.raises(ValueError, match="group_size_target"):
        random_bandit(16, 4, group_size_target=1e30, rng=rng)


@pytest.mark.parametrize("rng", [None, 7])
def test_rng_of_another_type_is_refused_by_name(rng):
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
        random_bandit(16, 4, rng=rng)
