"""A pool of outputs to every prompt, with the inner products of their scores.

Scores live in 10⁵ dimensions, but the error of a gradient at a prompt needs their inner products
only: with K_uv = W_u·W_v over the distinct outputs, ‖Σ_i a_i W_i‖² = aᵀKa. One pool serves every
group size and every estimator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ustat_grpo.checks import integer
from ustat_grpo.estimators import Grpo
from ustat_grpo.lm.exact import objective_gradient, require_solutions, solution_probs
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
from ustat_grpo.lm.rewards import ExactMatch, Reward
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.score_products import score_gram
from ustat_grpo.lm.scoring import Answers, distinct, squared_norm, weighted_score

Array = NDArray[np.float64]

NUM_BLOCKS = 16
"""Parts of a pool that are left out one by one to learn its error."""


@dataclass(frozen=True, eq=False)
class PromptPool:
    """M outputs to one prompt; an output without a reward (NaN) is not among them.

    Args:
        gram: W_u·W_v over the U distinct outputs, shape (U, U).
        place: which distinct output each of the M is, shape (M,).
        rewards: Z of each of the M, shape (M,).
        value: V(x) if known exactly. Then the gradient is g(x) = V(x)·W_solution.
        solution: the distinct output that is the solution, if V(x) is known exactly; it need not
            be one of the M.
    """

    gram: Float[Array, "U U"]
    place: Int[NDArray[np.int64], " M"]
    rewards: Float[Array, " M"]
    value: float | None = None
    solution: int | None = None

    @property
    def products(self) -> Float[Array, "M M"]:
        """W_i·W_j over the M outputs."""
        return self.gram[np.ix_(self.place, self.place)]

    @property
    def norms(self) -> Float[Array, " M"]:
        """‖W_i‖² of the M outputs."""
        return self.gram.diagonal()[self.place]


@dataclass(frozen=True, eq=False)
class Pool:
    """Outputs to each of P prompts, all of the same weight.

    Args:
        prompts: one pool a prompt.
        gradient_products: T_k·T_l over the gradients of the objective from `NUM_BLOCKS` parts of
            the pool, shape (K, K); or ‖∇J‖² itself, shape (1, 1), if it is known exactly.
    """

    prompts: Sequence[PromptPool]
    gradient_products: Float[Array, "K K"]

    @property
    def exact(self) -> bool:
        """Whether values and gradients are known without sampling."""
        return self.prompts[0].value is not None


def draw_pool(
    model: LanguageModel,
    prompts: Prompts,
    reward: Reward,
    num_outputs: int,
    *,
    max_tokens: int,
    rng: torch.Generator,
    outputs_at_once: int = 2**14,
) -> Pool:
    """Sample outputs to every prompt and take the inner products of their scores.

    With the exact-match reward the solution's score is taken too, and values and gradients are
    exact (`ustat_grpo.lm.exact`).

    Args:
        model: the policy.
        prompts: P prompts.
        reward: of outputs.
        num_outputs: M, to each prompt; a multiple of `NUM_BLOCKS`.
        max_tokens: the most tokens of an output, the end token included.
        rng: source of randomness.
        outputs_at_once: sampled or scored together, but never less than a prompt's M sampled;
            bounds the memory.

    Raises:
        ValueError: if an argument is out of range, the exact-match reward is that of other prompts,
            or a prompt has fewer than four outputs with a reward.
    """
    if integer("num_outputs", num_outputs, at_least=2 * NUM_BLOCKS) % NUM_BLOCKS:
        raise ValueError(f"num_outputs must be a multiple of {NUM_BLOCKS}, got {num_outputs}")
    if isinstance(reward, ExactMatch):
        require_solutions(model, prompts, reward.solutions, max_tokens)
    at_once = max(1, integer("outputs_at_once", outputs_at_once) // num_outputs)
    questions = torch.arange(len(prompts), device=prompts.tokens.device)
    drawn = []
    for rows in questions.split(at_once):
        asked = prompts[rows]
        rollouts = sample_groups(model, asked, num_outputs, max_tokens=max_tokens, rng=rng)
        drawn.append(_Drawn(rollouts, reward(rollouts, rows)))
    if isinstance(reward, ExactMatch):
        return _exact_pool(model, reward.solutions, drawn)
    return _sampled_pool(model, drawn, outputs_at_once)


class _Drawn(NamedTuple):
    """Rollouts to some prompts, and their rewards."""

    rollouts: Rollouts
    rewards: Float[Tensor, "B G"]


def _exact_pool(model: LanguageModel, solutions: Answers, drawn: Sequence[_Drawn]) -> Pool:
    values = solution_probs(model, solutions).double().tolist()
    pools = []
    for prompt, (answers, place, rewards) in enumerate(_by_prompt(drawn)):
        answers, solution = _with_solution(answers, solutions, prompt)
        gram = _gram(model, answers)
        pools.append(PromptPool(gram, place, rewards, values[prompt], solution))
    return Pool(pools, np.array([[squared_norm(objective_gradient(model, solutions))]]))


def _sampled_pool(model: LanguageModel, drawn: Sequence[_Drawn], outputs_at_once: int) -> Pool:
    pools = []
    for prompt, (answers, place, rewards) in enumerate(_by_prompt(drawn)):
        scored = np.isfinite(rewards)
        if scored.sum() < 4:
            raise ValueError(
                f"prompts must have at least 4 outputs with a reward, got {scored.sum()} "
                f"of {len(rewards)} at prompt {prompt}"
            )
        pools.append(PromptPool(_gram(model, answers), place[scored], rewards[scored]))
    return Pool(pools, _gradient_products(model, drawn, outputs_at_once))


def _gram(model: LanguageModel, answers: Answers) -> Float[Array, "U U"]:
    return score_gram(model, answers).double().cpu().numpy()


def _by_prompt(drawn: Sequence[_Drawn]) -> Iterator[tuple[Answers, NDArray[np.int64], Array]]:
    """Yield each prompt's distinct outputs, where they stand among the M, and the M rewards."""
    for rollouts, rewards in drawn:
        answers, place = distinct(rollouts)
        ends = torch.bincount(answers.prompt, minlength=len(rollouts.prompts)).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        for prompt, (start, end) in enumerate(zip(starts, ends, strict=True)):
            local = (place[prompt] - start).cpu().numpy()
            yield answers[start:end], local, rewards[prompt].double().cpu().numpy()


def _with_solution(answers: Answers, solutions: Answers, prompt: int) -> tuple[Answers, int]:
    """Return the outputs and the place of the solution among them, added if it was not sampled."""
    solution = solutions.tokens.masked_fill(~solutions.mask, -1)[prompt]
    given = answers.tokens.masked_fill(~answers.mask, -1)
    length = max(len(solution), given.shape[1])
    solution = functional.pad(solution, (0, length - len(solution)), value=-1)
    given = functional.pad(given, (0, length - given.shape[1]), value=-1)
    found = (given == solution).all(dim=1).nonzero()
    if len(found):
        return answers, int(found[0, 0])
    tokens = torch.cat([given, solution[None]])
    rows = torch.cat([answers.prompt, answers.prompt[:1]])
    return Answers(answers.prompts, rows, tokens.clamp(min=0), tokens >= 0), len(given)


def _gradient_products(
    model: LanguageModel, drawn: Sequence[_Drawn], outputs_at_once: int
) -> Float[Array, "K K"]:
    """Return the products of the gradients of the objective that parts of the pool estimate.

    Parts share no output, so T_k·T_l is unbiased for ‖∇J‖², given two outputs with a reward in each
    part at each prompt. These are dealt out as `ustat_grpo.lm.measured_moments` leaves them out.
    """
    count = sum(len(rollouts.prompts) for rollouts, _ in drawn)
    parts = []
    for block in range(NUM_BLOCKS):
        total = None
        for rollouts, rewards in drawn:
            scored = rewards.isfinite()
            part = scored & ((scored.cumsum(dim=1) - 1) % NUM_BLOCKS == block)
            advantages = Grpo().advantages(rewards.masked_fill(~part, torch.nan))
            weights = advantages / (part.sum(dim=1, keepdim=True).clamp(min=1) * count)
            found = weighted_score(model, rollouts, weights, rows_per_pass=outputs_at_once)
            total = found if total is None else tuple(map(torch.add, total, found))
        assert total is not None
        parts.append(torch.cat([part.flatten() for part in total]).double())
    stacked = torch.stack(parts)
    return (stacked @ stacked.T).cpu().numpy()
