"""Pools of a large model's outputs, prompt by prompt: each prompt's is a table that can be kept.

What a table holds is all that gradient errors need of a prompt: the rewards of its M outputs, which
of them are equal, and the inner products of the scores of those that differ. Gradients of as many
numbers as the model has weights are never kept, but for the whole minibatches of `whole_gradients`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.tasks.language import Panel
from ustat_grpo.estimators import Estimator, SideInformation
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.lm.language_model import Prompts
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.products import score_gram
from ustat_grpo.lm.scoring import (
    Answers,
    Gradient,
    distinct,
    passes,
    squared_norm,
    weighted_score_of,
    without_padding,
)
from ustat_grpo.pools.prompt_pools import PromptPool

_AT_ONCE = 8
"""Prompts whose groups are scored together in a whole gradient; bounds the memory."""

_PRODUCT = "product_{}"
"""Columns of a table: inner products with the score of that distinct output."""


def drawn(panel: Panel, number: int, num_outputs: int, rng: torch.Generator) -> pd.DataFrame:
    """Sample outputs to one prompt, and take the inner products of their scores.

    Args:
        panel: a policy and its prompts.
        number: of the prompt.
        num_outputs: M.
        rng: of this prompt.

    Returns:
        M rows: the `place` of an output among the distinct ones, its `reward`; in the first rows,
        of the distinct outputs, their `tokens` and the products of their scores.
    """
    prompt = _without_common_padding(panel.prompts[number : number + 1])
    rollouts = sample_groups(panel.model, prompt, num_outputs, max_tokens=panel.max_tokens, rng=rng)
    rewards = panel.reward(rollouts, torch.tensor([number], device=prompt.tokens.device))[0]
    answers, place = distinct(rollouts)
    answers = without_padding(answers)
    gram = score_gram(panel.model, answers).double().cpu().numpy()
    count = len(gram)
    products = np.full((num_outputs, count), np.nan)
    products[:count] = gram
    tokens = [
        " ".join(map(str, row[real].tolist()))
        for row, real in zip(answers.tokens, answers.mask, strict=True)
    ]
    table = pd.DataFrame(
        {
            "place": place[0].cpu().numpy(),
            "reward": rewards.double().cpu().numpy(),
            "tokens": [*tokens, *[""] * (num_outputs - count)],
        }
    )
    names = [_PRODUCT.format(other) for other in range(count)]
    return pd.concat([table, pd.DataFrame(products, columns=names)], axis=1)


def _without_common_padding(prompts: Prompts) -> Prompts:
    first = int(prompts.real.any(dim=0).int().argmax())
    return Prompts(prompts.tokens[:, first:], prompts.real[:, first:])


class PromptOutputs(NamedTuple):
    """What a kept table says of a prompt.

    Args:
        pool: rewards and products of scores.
        tokens: of each distinct output.
    """

    pool: PromptPool
    tokens: Sequence[Sequence[int]]

    @classmethod
    def of(cls, table: pd.DataFrame) -> "PromptOutputs":
        """Read a table that `drawn` made."""
        names = [name for name in table if name.startswith(_PRODUCT.format(""))]
        count = len(names)
        gram = table[names].to_numpy()[:count]
        written = table["tokens"].astype(str)[:count]
        return cls(
            PromptPool(gram, table["place"].to_numpy(), table["reward"].to_numpy(float)),
            [[int(token) for token in row.split()] for row in written],
        )


class WholeGradients(NamedTuple):
    """Minibatch gradients of all weights, R of each estimator: what is left of them is kept.

    Args:
        sums: Σ_r T_r of each estimator, one tensor a parameter.
        squares: ‖T_r‖² of each estimator, shape (R,).
    """

    sums: Mapping[str, Gradient]
    squares: Mapping[str, Float[Array, " R"]]

    def errors(self, name: str) -> Float[Array, " R"]:
        """Return R numbers whose mean is unbiased for E‖T − E T‖²."""
        squares = self.squares[name]
        count = len(squares)
        mean_square = squared_norm(self.sums[name]) / count**2
        return (squares - mean_square) * count / (count - 1)

    def objective_norm(self, name: str) -> float:
        """Return an unbiased estimate of ‖E T‖²: that of products of different gradients."""
        squares = self.squares[name]
        count = len(squares)
        return float((squared_norm(self.sums[name]) - squares.sum()) / (count * (count - 1)))


def whole_gradients(
    panel: Panel,
    outputs: Sequence[PromptOutputs],
    estimators: Mapping[str, Estimator],
    group_size: int,
    num_gradients: int,
) -> WholeGradients:
    """Return gradients over all prompts, of the first outputs of each, G in every gradient.

    They are those of outputs that the pools hold, so beside the pools' own errors they check the
    products of scores, by another way through the model, and not the draws.
    """
    sums: dict[str, Gradient] = {}
    squares: dict[str, list[float]] = {name: [] for name in estimators}
    for number in range(num_gradients):
        members = slice(number * group_size, (number + 1) * group_size)
        for name, gradient in _minibatch(panel, outputs, estimators, members).items():
            squares[name].append(squared_norm(gradient))
            _add(sums, name, gradient)
    return WholeGradients(sums, {name: np.array(each) for name, each in squares.items()})


def _minibatch(
    panel: Panel,
    outputs: Sequence[PromptOutputs],
    estimators: Mapping[str, Estimator],
    members: slice,
) -> dict[str, Gradient]:
    """Return one gradient an estimator: the mean over prompts of those of their groups."""
    totals: dict[str, Gradient] = {}
    for numbers in passes(len(outputs), _AT_ONCE):
        prompts = _without_common_padding(panel.prompts[numbers])
        answers, weights = _weighted(prompts, outputs[numbers], estimators, members)
        for name, values in weights.items():
            scaled = values / len(outputs)
            _add(totals, name, weighted_score_of(panel.model, answers, scaled))
    return totals


def _add(totals: dict[str, Gradient], name: str, gradient: Gradient) -> None:
    """Add a gradient to the total of that name, in place: each takes as much as the model."""
    if name not in totals:
        totals[name] = gradient
        return
    for total, part in zip(totals[name], gradient, strict=True):
        total.add_(part)


def _weighted(
    prompts: Prompts,
    outputs: Sequence[PromptOutputs],
    estimators: Mapping[str, Estimator],
    members: slice,
) -> tuple[Answers, dict[str, Float[Tensor, " U"]]]:
    """Return the distinct outputs of each prompt's group, and what each weighs by estimator."""
    asked, sequences = [], []
    weights: dict[str, list[float]] = {name: [] for name in estimators}
    for number, (pool, tokens) in enumerate(outputs):
        rewards, place = pool.rewards[members], pool.place[members]
        kept = np.unique(place)
        asked += [number] * len(kept)
        sequences += [torch.tensor(tokens[each]) for each in kept]
        known = SideInformation(np.array(pool.rewards.mean()), np.array(pool.rewards.mean()))
        for name, estimator in estimators.items():
            advantages = estimator.advantages(rewards, known) / len(rewards)
            weights[name] += [float(advantages[place == each].sum()) for each in kept]
    device = prompts.tokens.device
    padded = Answers.of(prompts[torch.tensor(asked, device=device)], sequences)
    answers = Answers(prompts, torch.tensor(asked, device=device), padded.tokens, padded.mask)
    return answers, {name: torch.tensor(values, device=device) for name, values in weights.items()}
