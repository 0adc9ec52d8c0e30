"""The surrogate gradient of old outputs: its bias, its penalties, what is clipped."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from support.lm_problems import (
    END,
    OUTPUTS,
    PROMPTS,
    RIGHT,
    enumerate_outputs,
    flat,
    generator,
    graded,
    matches,
    outputs_in,
    plain_log_prob,
    plain_steps,
    plain_token_log_probs,
    problem,
    rollouts_of,
    tiny,
    trainers_objective,
)
from ustat_grpo.estimators import (
    ConstantBaseline,
    Grpo,
    Oracle,
    Shrinkage,
    SideInformation,
    Vanilla,
)
from ustat_grpo.lm import Rollouts, practical_gradient, sample_groups
from ustat_grpo.optimization.practice import PENALTIES, RATIOS, Practice


def every_pair(old, prompt: int) -> tuple[Rollouts, torch.Tensor]:
    """All groups of two outputs to a prompt, each as a prompt of its own; their probabilities."""
    pairs = [list(pair) for pair in product(OUTPUTS, repeat=2)]
    rollouts = rollouts_of(pairs, PROMPTS[torch.full((len(pairs),), prompt)])
    single = torch.zeros(len(OUTPUTS), rollouts.outputs.shape[-1], dtype=torch.float64)
    with torch.no_grad():
        for row, output in enumerate(OUTPUTS):
            single[row, : len(output)] = plain_token_log_probs(old, prompt, output)
    log_probs = single[torch.tensor(list(product(range(len(OUTPUTS)), repeat=2)))]
    return replace(rollouts, log_probs=log_probs), log_probs.sum(dim=(1, 2)).exp()


@pytest.mark.parametrize("prompt", [0, 1, 2])
@pytest.mark.parametrize(
    "estimator", [Vanilla(), Grpo(), Oracle(), ConstantBaseline(0.4), Shrinkage(0.5, 0.2)]
)
def test_expected_gradients_under_an_old_policy(estimator, prompt):
    """E_old of the sequence ratio's ĝ is ∇π_θ(y*); the token ratio's is π_old(y*) Σ_t μ_t ∇log π_t.

    Both to 1e-12 over all pairs, whatever the baseline: E_old[μ_t ∇log π_t∣y_<t] = 0. For outputs
    of two tokens they differ by more than 1e-3, as does no ratio at all: the bias of Algorithm 2.
    """
    old, (new, known) = tiny(4), (tiny(5), enumerate_outputs(tiny(5)))
    rollouts, probs = every_pair(old, prompt)
    rewards = torch.tensor(
        [[float(y == RIGHT[prompt]) for y in group] for group in outputs_in(rollouts)],
        dtype=torch.float64,
    )
    side = SideInformation(torch.full((len(probs),), 0.3, dtype=torch.float64))
    # Linear in advantages: their weights make a mean of the pairs the expectation.
    weighted = estimator.advantages(rewards, side) * probs[:, None] * len(probs)
    found = {
        ratio: flat(practical_gradient(new, rollouts, weighted, Practice(1, ratio)))
        for ratio in RATIOS
    }
    truth = known.gradients(matches())[prompt]
    now, before = (plain_token_log_probs(each, prompt, RIGHT[prompt]) for each in (new, old))
    ratios = (now - before).exp().detach()
    closed = torch.autograd.grad(
        (before.sum().exp().detach() * ratios * now).sum(), list(new.parameters())
    )
    np.testing.assert_allclose(found["sequence"], truth, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["token"], flat(closed), rtol=0, atol=1e-12)
    assert np.abs(found["none"] - truth).max() > 1e-3
    assert (np.abs(found["token"] - truth).max() > 1e-3) == (len(RIGHT[prompt]) > 1)


def penalty_mean(model, reference, prompt: int, penalty: str) -> np.ndarray:
    """E of −ĝ over the outputs of the policy itself, at advantages of 0 and κ = 1."""
    total, practice = 0.0, Practice(1, "none", penalty=penalty, penalty_weight=1.0)
    for output in OUTPUTS:
        rollouts = rollouts_of([[output]], PROMPTS[prompt : prompt + 1])
        zero = torch.zeros(1, 1, dtype=torch.float64)
        found = practical_gradient(model, rollouts, zero, practice, reference=reference)
        total = total - plain_log_prob(model, prompt, output).exp().item() * flat(found)
    return np.asarray(total)


def divergence(model, reference, prompt: int, penalty: str, *, fixed: bool = True) -> np.ndarray:
    """∇ of the mean over prefixes y_<t of π_θ of the divergence of the next token."""
    total = torch.zeros((), dtype=torch.float64)
    for output in [(0,), *((token, 0) for token in (0, 2, 3))]:  # the last token is not looked at
        ours, theirs = plain_steps(model, prompt, output), plain_steps(reference, prompt, output)
        reach = torch.ones((), dtype=torch.float64)
        if len(output) > 1:
            reach = ours[0, output[0]].exp()
        reach = reach.detach() if fixed else reach
        one, other = (ours[-1], theirs[-1].detach())
        if penalty == "k3":
            one, other = other, one
        total = total + reach * (one.exp() * (one - other)).sum()
    return flat(torch.autograd.grad(total, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_what_penalties_penalise(prompt):
    """Means by enumeration to 1e-12: k1 nothing, k2 KL(π_θ ‖ π_ref), k3 KL(π_ref ‖ π_θ), by token.

    Prefixes are held fixed: the gradient of the whole KL differs by more than 1e-3, and so do the
    two directions.
    """
    model, reference = problem()[0], tiny(3)
    means = {each: penalty_mean(model, reference, prompt, each) for each in PENALTIES}
    np.testing.assert_allclose(means["k1"], 0, rtol=0, atol=1e-12)
    for penalty, other in (("k2", "k3"), ("k3", "k2")):
        expected = divergence(model, reference, prompt, penalty)
        np.testing.assert_allclose(means[penalty], expected, rtol=0, atol=1e-12)
        assert np.abs(expected - divergence(model, reference, prompt, other)).max() > 1e-3
        whole = divergence(model, reference, prompt, penalty, fixed=False)
        assert np.abs(expected - whole).max() > 1e-3


def test_the_gradient_of_sampled_rollouts_is_that_of_training():
    """`practical_gradient` at π_old, ratios and all, is Algorithm 1's gradient and its penalty."""
    model, reference = tiny(), tiny(2)
    rollouts = sample_groups(model, PROMPTS, 5, max_tokens=2, rng=generator(1))
    rewards = graded(rollouts, torch.arange(3))
    practice = Practice(ratio="sequence", clip=(0.2, 0.2), penalty_weight=0.5)
    found = practical_gradient(
        model, rollouts, Grpo().advantages(rewards), practice, reference=reference, rows_per_pass=3
    )
    total = torch.zeros((), dtype=torch.float64)
    for question, outputs in enumerate(outputs_in(rollouts)):
        for i, output in enumerate(outputs):
            now, ref = (
                plain_token_log_probs(each, question, output) for each in (model, reference)
            )
            advantage = float(Grpo().advantages(rewards)[question, i])
            total = (
                total
                + trainers_objective(now, now.detach(), advantage, ref.detach(), practice) / 15
            )
    expected = torch.autograd.grad(total, list(model.parameters()))
    np.testing.assert_allclose(flat(found), flat(expected), rtol=0, atol=1e-12)


def test_equal_outputs_are_clipped_by_the_sign_of_each():
    """One output twice, A = 1 and −1, at a ratio beyond 1 + high: only the second is left.

    Their sum, 0, would leave nothing.
    """
    model, output = tiny(), (0, 2)
    log_probs = plain_token_log_probs(model, 0, output).detach()
    rollouts = rollouts_of([[output, output]], PROMPTS[:1])
    rollouts = replace(rollouts, log_probs=(log_probs - 0.5).expand(1, 2, 2))
    advantages = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    found = flat(practical_gradient(model, rollouts, advantages, Practice(clip=(0.2, 0.2))))
    score = torch.autograd.grad(plain_log_prob(model, 0, output), list(model.parameters()))
    np.testing.assert_allclose(found, -np.exp(0.5) * flat(score) / 2, rtol=0, atol=1e-12)
    assert not flat(practical_gradient(model, rollouts, advantages, Practice())).any()


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_a_ratio_that_overflows_is_clipped_to_nothing(ratio):
    model, output = tiny(), (0, 2)
    rollouts = rollouts_of([[output]], PROMPTS[:1])
    rollouts = replace(rollouts, log_probs=torch.full((1, 1, 2), -1e3, dtype=torch.float64))
    one = torch.ones(1, 1, dtype=torch.float64)
    found = practical_gradient(model, rollouts, one, Practice(1, ratio, (0.2, 0.2)))
    assert not flat(found).any()
    assert not np.isfinite(flat(practical_gradient(model, rollouts, one, Practice(1, ratio)))).all()


def test_what_does_not_fit_is_refused():
    rollouts = rollouts_of([[(END,), (2, 0)]], PROMPTS[:1])
    ones = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"advantages must have the shape \(1, 2\) of the groups"):
        practical_gradient(tiny(), rollouts, ones[0], Practice())
    with pytest.raises(ValueError, match=r"reference must be given for penalty_weight = 0.1, got"):
        practical_gradient(tiny(), rollouts, ones, Practice(penalty_weight=0.1))
