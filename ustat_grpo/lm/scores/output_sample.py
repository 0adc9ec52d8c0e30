"""All that the noise estimates need of a batch of outputs, from one forward and backward pass.

A prompt's gradient ĝ_b = Σ_i a_i W_i is written out one parameter at a time, in blocks of its rows:
of all prompts at once, since their sum is needed, too, and never whole.
"""

from collections.abc import Iterator
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ustat_grpo.estimators.scored import power_of_two, scorable
from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.language_model import LanguageModel, Rollouts
from ustat_grpo.lm.scores.calls import Layer, Part, matrices
from ustat_grpo.lm.scores.layers import require_separable, trained_layers, visit_parts
from ustat_grpo.lm.scores.products import squared_norms
from ustat_grpo.lm.scoring import (
    Answers,
    answers_of,
    merged,
    passes,
    require_weights,
    without_padding,
)
from ustat_grpo.noise.groups import MIN_OUTPUTS, grouped
from ustat_grpo.noise.sample import OutputSample

LARGEST_BLOCK = 2**22
"""The most numbers of the gradients of all prompts at a time; 16 MB of float32."""

MIN_GROUPS = 2
"""A batch of one prompt knows no products between prompts."""


def measured_outputs(
    model: LanguageModel,
    rollouts: Rollouts,
    rewards: Float[Tensor, "B G"],
    *,
    groups_per_pass: int | None = None,
) -> OutputSample:
    """Return rewards, ‖W_i‖², ‖ĝ_b‖² and ĝ_b·Σ_c ĝ_c of outputs, exactly.

    With W_i = ∇ log π(y_i∣x_b) and ĝ_b = (1/M) Σ_i (Z_i − Z̄⁽⁻ⁱ⁾) W_i. It takes one forward and one
    backward pass, in which parameters get no gradient, and leaves model and gradients as they were.

    Args:
        model: a policy that `score_norms` takes; its dropout, if any, is for the caller to switch
            off.
        rollouts: G outputs to each of B prompts.
        rewards: Z of every output; what is not finite leaves an output out, and a prompt with fewer
            than 3 others.
        groups_per_pass: bounds the memory: so many prompts at a time, which are a batch of the
            sample then; None takes all. A prompt that would be alone joins the pass before.

    Raises:
        TypeError: if the model is no torch.nn.Module.
        ValueError: if rewards do not have the groups' shape, fewer than 2 prompts are left,
            `groups_per_pass` is below 2, no parameter is trained, or the model is one that
            `score_norms` refuses (`UnmeasurableModelError`, where only its outputs show it).
        RuntimeError: if a layer runs without derivatives (reentrant gradient checkpointing).

    Reference: Goodfellow 2015, arXiv 1510.01799; Li et al. 2021, arXiv 2110.05679.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import estimate_noise
        >>> from ustat_grpo import lm
        >>> policy, rng = lm.shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = lm.arithmetic_questions(5, 10, rng=np.random.default_rng(0))
        >>> rollouts = lm.sample_groups(policy, questions.prompts, 4, max_tokens=6, rng=rng)
        >>> rewards = questions.exact_match(rollouts, torch.arange(10))
        >>> sample = lm.measured_outputs(policy, rollouts, rewards)
        >>> sample.rewards.shape, sample.gradient_norms.shape
        ((40,), (10,))
        >>> estimate_noise(sample).oracle > 0
        True
    """
    return OutputSample.joined(
        list(measured_batches(model, rollouts, rewards, groups_per_pass=groups_per_pass))
    )


def measured_batches(
    model: LanguageModel,
    rollouts: Rollouts,
    rewards: Float[Tensor, "B G"],
    *,
    groups_per_pass: int | None = None,
) -> Iterator[OutputSample]:
    """Return the sample of every pass as soon as it is measured; see `measured_outputs`."""
    require_weights("rewards", rewards, rollouts)
    if groups_per_pass is not None:
        integer("groups_per_pass", groups_per_pass, at_least=MIN_GROUPS)
    values = rewards.detach().double().cpu()
    chosen = _chosen(values)
    layers = trained_layers(model)
    if not layers:
        raise ValueError("model must have a parameter that requires a gradient, got none")
    every = answers_of(rollouts)
    try:
        require_separable(model, every, layers)
    except ValueError as error:
        raise UnmeasurableModelError(str(error)) from error
    return (
        _one_pass(model, layers, every, values, chosen[batch])
        for batch in _batches(len(chosen), groups_per_pass)
    )


class UnmeasurableModelError(ValueError):
    """A model whose gradient is not made of the parts that its layers show."""


def measurable(rewards: Float[Tensor, "B G"]) -> Int[Tensor, " b"]:
    """Return the prompts with enough outputs whose reward is scorable."""
    return (scorable(rewards).sum(dim=1) >= MIN_OUTPUTS).nonzero().squeeze(-1)


def _chosen(rewards: Float[Tensor, "B G"]) -> Int[Tensor, " b"]:
    """Return the measurable prompts, or raise if they are too few."""
    chosen = measurable(rewards)
    if len(chosen) < MIN_GROUPS and rewards.isinf().any():
        raise ValueError("rewards must be finite, or NaN to leave an output out, got inf")
    if len(chosen) < MIN_GROUPS:
        raise ValueError(
            f"rewards must leave at least {MIN_GROUPS} prompts with {MIN_OUTPUTS} outputs that "
            f"have one, got {len(chosen)} of {len(rewards)} prompts"
        )
    return chosen


def _batches(count: int, size: int | None) -> list[slice]:
    """Cut groups into passes of at least two."""
    batches = list(passes(count, size))
    if count - batches[-1].start < MIN_GROUPS:
        batches[-2:] = [slice(batches[-2].start, count)]
    return batches


def _one_pass(
    model: LanguageModel,
    layers: tuple[Layer, ...],
    every: Answers,
    rewards: Float[Tensor, "B G"],
    chosen: Int[Tensor, " b"],
) -> OutputSample:
    """Return the sample of some of the prompts; equal outputs to a prompt are read once."""
    group, member = scorable(rewards[chosen]).nonzero(as_tuple=True)
    rows = chosen[group] * rewards.shape[1] + member
    groups = grouped(rewards.flatten()[rows].numpy(), group.numpy())
    answers, place = merged(without_padding(every[rows.to(every.tokens.device)]))
    place = place.cpu()
    weights = torch.zeros(len(answers), dtype=torch.float64)
    weights.index_add_(0, place, torch.from_numpy(groups.weights))
    # Squares of gradients must fit into single precision, whatever the unit of rewards.
    unit = power_of_two(torch, weights.abs().max())
    norms, products = _measured(model, layers, answers, weights / unit)
    products *= unit**2
    return OutputSample(
        rewards=groups.rewards,
        score_norms=norms[place].numpy(),
        prompts=group.numpy(),
        gradient_norms=products[0].numpy(),
        gradient_products=products[1].numpy(),
    )


def _measured(
    model: LanguageModel,
    layers: tuple[Layer, ...],
    answers: Answers,
    weights: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "2 B"]]:
    """Return ‖W‖² of every row, and ‖ĝ_b‖² and ĝ_b·Σ_c ĝ_c of every prompt, in double precision."""
    device, kinds = answers.tokens.device, {p.dtype for x in layers for p in x.trained.values()}
    live, members, shares = _gathered(answers.prompt.cpu(), weights)
    members = members.to(device)
    shares = shares.to(device, reduce(torch.promote_types, kinds, torch.float32))
    norms, sums = [], [shares.new_zeros(2, len(live))]

    def visit(parameter: nn.Parameter, parts: list[Part]) -> None:
        norms.append(squared_norms(parts, parameter))
        if len(live):
            for some, matrix in matrices(parts, parameter):
                sums.extend(_products(some, len(matrix), members, shares))

    visit_parts(model, answers, layers, visit)
    products = weights.new_zeros(2, len(answers.prompts))
    products[:, live] = torch.stack(sums).cpu().double().sum(dim=0)
    return torch.stack(norms).cpu().double().sum(dim=0), products


def _gathered(
    prompt: Int[Tensor, " n"], weights: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " b"], Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Return the prompts whose gradient does not vanish, their rows, and what these weigh.

    Rows are in the order of their prompts; a prompt with fewer than others repeats its first
    one, without weight.
    """
    sizes = torch.bincount(prompt)
    starts = sizes.cumsum(0) - sizes
    live = torch.unique(prompt[weights != 0])
    sizes, places = sizes[live], torch.arange(max(sizes[live].tolist(), default=0))
    real = places < sizes[:, None]
    members = starts[live, None] + places.where(real, 0)
    return live, members, weights[members] * real


def _products(
    parts: list[Part], height: int, members: Int[Tensor, "b k"], shares: Float[Tensor, "b k"]
) -> Iterator[Float[Tensor, "2 b"]]:
    """Yield, of each block of one parameter's rows, what it adds to ‖ĝ_b‖² and ĝ_b·Σ_c ĝ_c."""
    rights = [
        part.right[members].mul_(shares[..., None, None]).flatten(1, 2)  # a copy
        for part in parts
    ]
    num_groups, _, width = rights[0].shape
    for block in passes(height, max(1, LARGEST_BLOCK // (num_groups * width))):
        rows = range(height)[block]
        gradients = rights[0].new_zeros(num_groups, len(rows), width)
        for part, right in zip(parts, rights, strict=True):
            _add_gradients(gradients, part.left, members, right, rows)
        flat = gradients.flatten(1)
        yield torch.stack([torch.linalg.vecdot(flat, other) for other in (flat, flat.sum(dim=0))])


def _add_gradients(
    gradients: Float[Tensor, "b h q"],
    left: Tensor,
    members: Int[Tensor, "b k"],
    right: Float[Tensor, "b s q"],
    rows: range,
) -> None:
    """Add Σ left rightᵀ over the outputs of every prompt, some rows of it."""
    if left.is_floating_point():
        columns = left[..., rows.start : rows.stop][members]
        gradients.baddbmm_(columns.flatten(1, 2).mT, right)
        return
    places = left[members].flatten(1) - rows.start
    group, token = ((places >= 0) & (places < len(rows))).nonzero(as_tuple=True)
    target = group * len(rows) + places[group, token]
    gradients.view(-1, gradients.shape[-1]).index_add_(0, target, right[group, token])
