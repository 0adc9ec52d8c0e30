"""Pools of outputs: what is in them, and the inner products of their scores."""

from itertools import product

import numpy as np
import pytest
import torch

from support.lm_problems import (
    END,
    OUTPUTS,
    PROMPTS,
    RIGHT,
    SOLUTIONS,
    VOCABULARY,
    answers,
    enumerate_outputs,
    every_output,
    generator,
    grade,
    graded,
    grades,
    matches,
    outputs_in,
    problem,
    rollouts_of,
)
from ustat_grpo.lm import Rollouts, sample_groups
from ustat_grpo.lm.questions.rewards import ExactMatch, Reward
from ustat_grpo.lm.scores import output_pool
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.task import Task
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool

MATCH = ExactMatch(SOLUTIONS)
RAREST = [OUTPUTS[place] for place in problem()[1].probs.argmin(axis=1)]


def drawn(
    reward: Reward = MATCH, num_outputs=64, *, seed=0, max_tokens=2, prompts=PROMPTS, **options
) -> Pool:
    model, _ = problem()
    task = Task(prompts, reward, max_tokens)
    return draw_pool(model, task, num_outputs, rng=generator(seed), **options)


def sampled(num_outputs=64, seed=0) -> list[list[int]]:
    """Which of the outputs are drawn from the same generator, by prompt."""
    model, _ = problem()
    rollouts = sample_groups(model, PROMPTS, num_outputs, max_tokens=2, rng=generator(seed))
    return [[OUTPUTS.index(output) for output in group] for group in outputs_in(rollouts)]


def some_unscored(rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
    """`graded`, but what begins with a 3 could not be judged."""
    return graded(rollouts, questions).masked_fill(rollouts.outputs[..., 0] == 3, torch.nan)


@pytest.mark.parametrize("reward", [MATCH, graded], ids=["exact", "sampled"])
def test_products_are_those_of_autograd(reward):
    """W_i·W_j of the very outputs that were drawn, each score by a backward pass of its own."""
    _, known = problem()
    rewards = matches() if reward is MATCH else grades()
    for row, (found, drawn_here) in enumerate(zip(drawn(reward).prompts, sampled(), strict=True)):
        scores = known.scores[row, drawn_here]
        np.testing.assert_allclose(found.products, scores @ scores.T, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.norms, (scores**2).sum(axis=1), rtol=1e-9)
        assert found.rewards.tolist() == rewards[row, drawn_here].tolist()
        assert len(set(found.place)) == len(set(drawn_here))


@pytest.mark.parametrize("right", [RIGHT, RAREST], ids=["right", "rarest"])
def test_values_and_the_solutions_row_are_exact(right):
    """Also where the solution was never drawn: then it is one row more, and no output's place."""
    _, known = problem()
    found = drawn(ExactMatch(answers(right)), 32, seed=2)
    assert found.exact
    for row, (pool_here, drawn_here) in enumerate(zip(found.prompts, sampled(32, 2), strict=True)):
        solution = OUTPUTS.index(right[row])
        assert pool_here.value == pytest.approx(known.probs[row, solution], rel=1e-12)
        assert len(pool_here.gram) == len({*drawn_here, solution})
        expected = known.scores[row, drawn_here] @ known.scores[row, solution]
        along = pool_here.gram[pool_here.place, pool_here.solution]
        np.testing.assert_allclose(along, expected, rtol=1e-9, atol=1e-9)
        norm = pool_here.gram[pool_here.solution, pool_here.solution]
        assert norm == pytest.approx((known.scores[row, solution] ** 2).sum(), rel=1e-9)
        seen = (pool_here.place == pool_here.solution).tolist()
        assert seen == [each == solution for each in drawn_here] == pool_here.rewards.tolist()
        if right is RAREST:
            assert not any(seen) and pool_here.solution == len(pool_here.gram) - 1


@pytest.mark.parametrize(
    ("max_tokens", "right"),
    [
        (2, [(END,), (END,), (END,)]),
        (1, [(0,), (END,), (3,)]),
        (3, [(0, END), (0, 0, 0), (END,)]),  # of three lengths; begun as others go on
    ],
)
def test_solutions_of_another_length_than_the_outputs(max_tokens, right):
    model, _ = problem()
    solutions = answers(right)
    known = enumerate_outputs(model, max_tokens)
    found = drawn(ExactMatch(solutions), 32, max_tokens=max_tokens)
    for row, (prompt, output) in enumerate(zip(found.prompts, right, strict=True)):
        place = every_output(max_tokens).index(output)
        norm = (known.scores[row, place] ** 2).sum()
        assert prompt.gram[prompt.solution, prompt.solution] == pytest.approx(norm, rel=1e-9)
        assert prompt.value == pytest.approx(known.probs[row, place], rel=1e-12)
        alike = ((prompt.gram - prompt.gram[prompt.solution]) ** 2).max(axis=1) < 1e-12
        assert alike.sum() == 1  # no second row for the solution
        assert (prompt.rewards == (prompt.place == prompt.solution)).all()


def test_gradient_of_an_exact_pool_is_exact():
    _, known = problem()
    expected = (known.gradients(matches()).mean(axis=0) ** 2).sum()
    assert drawn(num_outputs=32).gradient_products.item() == pytest.approx(expected, rel=1e-12)


def test_outputs_without_a_reward_are_dropped():
    _, known = problem()
    found = drawn(some_unscored)
    for row, (prompt, drawn_here) in enumerate(zip(found.prompts, sampled(), strict=True)):
        kept = [each for each in drawn_here if OUTPUTS[each][0] != 3]
        assert 4 <= len(kept) < 64
        assert prompt.rewards.tolist() == grades()[row, kept].tolist()
        scores = known.scores[row, kept]
        np.testing.assert_allclose(prompt.products, scores @ scores.T, rtol=1e-9, atol=1e-9)
        assert prompt.value is prompt.solution is None
    assert not found.exact


def part_gradients(scores: list[np.ndarray], rewards: list[np.ndarray]) -> np.ndarray:
    """T_k of each part: the mean over prompts of the covariance of score and reward, (K, d)."""
    parts = []
    for block in range(NUM_BLOCKS):
        covariances = []
        for given, judged in zip(scores, rewards, strict=True):
            score, reward = given[block::NUM_BLOCKS], judged[block::NUM_BLOCKS]
            centred = (reward - reward.mean()) / (len(reward) - 1)
            covariances.append(centred @ score)
        parts.append(np.mean(covariances, axis=0))
    return np.array(parts)


@pytest.mark.parametrize("reward", [graded, some_unscored])
@pytest.mark.parametrize("outputs_at_once", [2**14, 100])
def test_gradient_products_are_those_of_explicit_scores(reward, outputs_at_once):
    """Every part's gradient over the outputs with a reward, which are dealt out one by one: the
    k-th part of a prompt is the one that the jackknife leaves out of its moments, too."""
    _, known = problem()
    found = drawn(reward, 96, outputs_at_once=outputs_at_once)
    kept = [
        [each for each in here if reward is graded or OUTPUTS[each][0] != 3] for here in sampled(96)
    ]
    scores = [known.scores[row, here] for row, here in enumerate(kept)]
    parts = part_gradients(scores, [grades()[row, here] for row, here in enumerate(kept)])
    np.testing.assert_allclose(found.gradient_products, parts @ parts.T, rtol=1e-9, atol=1e-9)


def test_gradient_products_are_unbiased_by_enumeration():
    """Parts of two one-token outputs: the 16 parts are all 16 pairs, so E T_k·T_l is a sum.

    It is ‖∇J‖² to 1e-12. Mutant: with k = l allowed it is E‖T_k‖².
    """
    model, _ = problem()
    known = enumerate_outputs(model, 1)
    outputs = every_output(1)
    pairs = list(product(range(len(outputs)), repeat=2))
    assert len(pairs) == NUM_BLOCKS == VOCABULARY**2
    for row in range(len(PROMPTS)):
        asked = PROMPTS[row : row + 1]
        group = [outputs[pair[place]] for place in (0, 1) for pair in pairs]
        rollouts = rollouts_of([group], asked)
        one = output_pool._Drawn(rollouts, graded(rollouts, torch.tensor([row])))
        products = output_pool._gradient_products(model, [one], 2**14)
        probs = np.array([known.probs[row, list(pair)].prod() for pair in pairs])
        rewards = np.array([grade(output, row) for output in outputs])
        gradient = (known.probs[row] * rewards) @ known.scores[row]
        assert probs @ products @ probs == pytest.approx(gradient @ gradient, rel=1e-12)
        assert probs @ products.diagonal() > 1.5 * (gradient @ gradient)


def test_a_pool_depends_on_its_generator_only():
    """Not on how many outputs are sampled or scored at once, which only bounds the memory."""
    for reward in (MATCH, some_unscored):
        first, other = drawn(reward), drawn(reward, seed=1)
        for at_once in (2**14, 64, 128, 1):
            again = drawn(reward, outputs_at_once=at_once)
            for ours, theirs in zip(first.prompts, again.prompts, strict=True):
                assert (ours.place == theirs.place).all()
                assert (ours.rewards == theirs.rewards).all()
                np.testing.assert_allclose(ours.gram, theirs.gram, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(
                first.gradient_products, again.gradient_products, rtol=1e-9, atol=1e-9
            )
        assert any(
            len(ours.place) != len(theirs.place) or (ours.place != theirs.place).any()
            for ours, theirs in zip(first.prompts, other.prompts, strict=True)
        )


def test_drawing_leaves_the_model_alone():
    model, _ = problem()
    before = [each.detach().clone() for each in model.parameters()]
    drawn(num_outputs=32)
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    assert all(torch.equal(*each) for each in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_outputs": 40}, "num_outputs must be a multiple of 16, got 40"),
        ({"num_outputs": 16}, "num_outputs must be an integer of at least 32, got 16"),
        ({"num_outputs": 32.0}, r"num_outputs must be an integer of at least 32, got 32\.0"),
        ({"outputs_at_once": 0}, "outputs_at_once must be an integer of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 3}, r"solutions must end .* got \[0, 2\] for question 1"),
        (
            {"max_tokens": 5, "reward": graded},
            "max_tokens must be at most 4: the model's context holds 8 tokens",
        ),
        ({"prompts": PROMPTS[:2]}, "prompts must be those of the 3 solutions, one each, got 2"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        drawn(**change)


def test_too_few_scored_outputs_are_refused():
    def reward(rollouts, questions):
        found = graded(rollouts, questions)
        return found.index_fill(1, torch.arange(3, 32), torch.nan)

    message = "prompts must have at least 4 outputs with a reward, got 3 of 32 at prompt 0"
    with pytest.raises(ValueError, match=message):
        drawn(reward, 32)
