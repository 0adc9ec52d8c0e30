"""Sign probes: unbiased over every choice of signs, and no worse than they are said to be."""

from itertools import permutations, product

import numpy as np
import pytest

from support.noise_cases import draw_batch, random_scores
from theory.problems import random_problem
from ustat_grpo.noise import OutputSample, estimate_noise, sign_probes
from ustat_grpo.noise.components import noise_components, prompt_statistics
from ustat_grpo.noise.groups import grouped

SIZE = 3


def batch(rng, num_prompts):
    """Scores (n, d), rewards (n,) and prompts (n,) of groups of three."""
    scores, rewards = random_scores(rng, [SIZE] * num_prompts)
    prompts = np.repeat(np.arange(num_prompts), SIZE)
    return np.concatenate(scores), np.concatenate(rewards), prompts


def exact_blocks(scores, rewards, prompts, block_sizes):
    """c₁, c₂, c₃ of every block by the exact estimator."""
    groups = grouped(rewards, prompts)
    gradients = np.zeros((len(groups.sizes), scores.shape[1]))
    np.add.at(gradients, groups.group, groups.weights[:, None] * scores)
    norms = np.sum(gradients**2, axis=1)
    statistics = prompt_statistics(groups, np.sum(scores**2, axis=1), norms)
    rows, start = [], 0
    for size in block_sizes:
        own = slice(start, start + size)
        parts = {name: value[own] for name, value in vars(statistics).items()}
        products = gradients[own] @ gradients[own].sum(axis=0)
        partners = np.full(size, size - 1)
        rows.append(noise_components(type(statistics)(**parts), norms[own], products, partners))
        start += size
    return np.array(rows)


def every_sign(probes, scores, kind, changes):
    """Mean norm of one row over every choice of its signs, each a factor to every output."""
    return np.mean([np.sum(((probes.weights[kind] * signs) @ scores) ** 2) for signs in changes])


@pytest.mark.parametrize("width", [2, 3])
def test_are_exact_on_average_over_all_signs_of_a_block(rng, width):
    """The first block: balanced signs of prompts, all 2ⁿ signs of outputs; to 1e-11.

    The mean of the components is those of the mean norms, in which they are linear. Mutants: one
    draw, and signs of prompts that are independent, are off by more than 0.1 %.
    """
    scores, rewards, prompts = batch(rng, 4 * width)
    probes = sign_probes(rewards, prompts, prompts_per_block=width, rng=rng)
    count = width * SIZE
    base = np.array([1.0, -1.0, 1.0][:width])
    own = np.zeros(len(rewards))
    own[:count] = np.repeat(1 / np.sign(_ratio(probes, prompts, width)), SIZE)
    of_prompts = [own * _spread(order, len(own)) for order in set(permutations(base))]
    of_outputs = [_padded(signs, len(own)) for signs in product((-1.0, 1.0), repeat=count)]
    norms = np.zeros(len(probes.weights))
    norms[0] = np.sum((probes.weights[0] @ scores) ** 2)
    norms[1] = every_sign(probes, scores, 1, of_prompts)
    norms[2], norms[3] = (every_sign(probes, scores, kind, of_outputs) for kind in (2, 3))
    expected = exact_blocks(scores, rewards, prompts, [width])[0]
    np.testing.assert_allclose(probes.measured(norms).components[0], expected, rtol=1e-11)
    loose = [own * _spread(signs, len(own)) for signs in product((-1.0, 1.0), repeat=width)]
    norms[1] = every_sign(probes, scores, 1, loose)
    assert np.abs(probes.measured(norms).components[0] / expected - 1).max() > 0.001
    one_draw = [np.sum((row @ scores) ** 2) for row in probes.weights]
    assert np.abs(probes.measured(one_draw).components[0] / expected - 1).max() > 0.001


def _ratio(probes, prompts, width):
    """The sign that each prompt of the first block got."""
    first = [np.flatnonzero(prompts == b)[0] for b in range(width)]
    return probes.weights[1, first] / probes.weights[0, first]


def _spread(signs, length):
    return _padded(np.repeat(signs, SIZE), length)


def _padded(signs, length):
    return np.concatenate([signs, np.zeros(length - len(signs))])


def test_many_draws_agree_with_the_exact_blocks(rng):
    """Nine prompts in four blocks, the last of three; 4000 draws, |z| ≤ 4.

    Catches components off by 5 % of the largest of them.
    """
    scores, rewards, prompts = batch(rng, 9)
    each = []
    for _ in range(4000):
        probes = sign_probes(rewards, prompts, prompts_per_block=2, rng=rng)
        each.append(probes.measured(np.sum((probes.weights @ scores) ** 2, axis=1)).components)
    assert probes.block_sizes.tolist() == [2, 2, 2, 3]
    expected = exact_blocks(scores, rewards, prompts, probes.block_sizes)
    errors = np.std(each, axis=0) / np.sqrt(len(each))
    assert 4 * errors.max() < 0.05 * np.abs(expected).max()
    assert np.abs((np.mean(each, axis=0) - expected) / errors).max() <= 4


def test_weights_are_what_they_are_said_to_be(rng):
    """Rows of a block: its outputs only; ±a_i, ±a_i, ±√(variance of others/M); balanced signs."""
    _, rewards, prompts = batch(rng, 17)
    probes = sign_probes(rewards, prompts, prompts_per_block=4, num_draws=2, rng=rng)
    groups = grouped(rewards, prompts)
    assert probes.block_sizes.tolist() == [4, 4, 4, 5]
    assert probes.weights.shape == (4 * 7, 51)
    rows = probes.weights.reshape(4, 7, 51)
    assert (np.count_nonzero(rows, axis=(0, 1)) == 7).all()
    for block in range(4):
        own = np.minimum(prompts // 4, 3) == block
        assert not rows[block][:, ~own].any()
        np.testing.assert_array_equal(rows[block, 0, own], groups.weights[own])
        for row in (1, 2, 4, 5):
            np.testing.assert_array_equal(np.abs(rows[block, row]), np.abs(rows[block, 0]))
        for row in (3, 6):
            squares = groups.variance_of_others[own] / SIZE
            np.testing.assert_allclose(rows[block, row, own] ** 2, squares, rtol=1e-12)
        ratio = rows[block, 1, own] / rows[block, 0, own]
        signs = ratio.reshape(-1, SIZE)
        assert (signs == signs[:, :1]).all()
        assert signs[:, 0].sum() == signs.shape[0] % 2


def test_estimate_takes_the_blocks_as_independent(rng):
    """Means over blocks, covariance of the mean, degrees of freedom; close to the exact mode.

    c₃ of 48 prompts agrees with the exact estimate within 4 standard errors of the signs mode.
    """
    scores, rewards = draw_batch(random_problem(2, dimension=2), 48, 6, rng)
    exact = estimate_noise(OutputSample.from_scores(scores, rewards))
    flat, prompts = np.concatenate(rewards), np.repeat(np.arange(48), 6)
    probes = sign_probes(flat, prompts, prompts_per_block=4, num_draws=8, rng=rng)
    sample = probes.measured(np.sum((probes.weights @ np.concatenate(scores)) ** 2, axis=1))
    found = estimate_noise(sample)
    blocks = sample.components
    assert blocks.shape == (12, 3)
    np.testing.assert_allclose(found.covariance, np.cov(blocks.T) / 12, rtol=1e-12)
    values = [found.prompt, found.oracle, found.residual]
    np.testing.assert_allclose(values, blocks.mean(axis=0), rtol=1e-12)
    assert abs(found.residual - exact.residual) < 4 * found.std_errors[2]


def test_refuses(rng):
    _, rewards, prompts = batch(rng, 16)
    with pytest.raises(ValueError, match="prompts_per_block must be an integer of at least 2"):
        sign_probes(rewards, prompts, prompts_per_block=1, rng=rng)
    with pytest.raises(ValueError, match="at least 4 blocks, got 5 for 16 prompts"):
        sign_probes(rewards, prompts, prompts_per_block=5, rng=rng)
    with pytest.raises(ValueError, match=r"groups must be of one size .*, got 3 to 4 outputs"):
        sign_probes(np.append(rewards, 1.0), np.append(prompts, 0), rng=rng)
    with pytest.raises(TypeError, match="rng must be"):
        sign_probes(rewards, prompts, rng=0)
    probes = sign_probes(rewards, prompts, prompts_per_block=4, rng=rng)
    with pytest.raises(ValueError, match=r"squared_norms must have shape \(16,\), got \(15,\)"):
        probes.measured(np.ones(15))
    with pytest.raises(ValueError, match="squared_norms must not be negative, got"):
        probes.measured(-np.ones(16))
    with pytest.raises(ValueError, match="squared_norms must be finite"):
        probes.measured(np.full(16, np.nan))
