"""Pools of a language model's outputs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ustat_grpo.estimators import Grpo
from ustat_grpo.estimators.scored import scorable
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.exact import objective_gradient, solution_probs
from ustat_grpo.lm.language_model import LanguageModel, Rollouts
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.products import score_gram
from ustat_grpo.lm.scoring import Answers, distinct, squared_norm, weighted_score
from ustat_grpo.lm.task import Task, require_solutions
from ustat_grpo.pools.prompt_pools import NUM_BLOCKS, Pool, PromptPool, whole_blocks


def draw_pool(
    model: LanguageModel,
    task: Task,
    num_outputs: int,
    *,
    rng: torch.Generator,
    outputs_at_once: int = 2**14,
) -> Pool:
    """Sample outputs to every prompt and take the inner products of their scores.

    With the exact-match reward the solution's score is taken too, and values and gradients are
    exact (`ustat_grpo.lm.exact`).

    Args:
        model: the policy.
        task: P prompts, and the reward of outputs of at most T tokens.
        num_outputs: M, to each prompt; a multiple of `NUM_BLOCKS`.
        rng: source of randomness.
        outputs_at_once: sampled or scored together, but never less than a prompt's M sampled;
            bounds the memory.

    Raises:
        ValueError: if an argument is out of range, the exact-match reward is that of other prompts,
            or a prompt has fewer than four outputs with a reward.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo import Grpo
        >>> from ustat_grpo.lm import Task, arithmetic_questions, draw_pool, shipped_policy
        >>> from ustat_grpo.pools import pool_errors
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> task = Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> pool = draw_pool(policy, task, 32, rng=rng)
        >>> errors = pool_errors(pool, {"grpo": Grpo()}, 4, rng=np.random.default_rng(0))["grpo"]
        >>> pool.exact, errors.num_groups, errors.mean.shape
        (True, 8, (5,))
    """
    whole_blocks("num_outputs", num_outputs)
    solutions = require_solutions(model, task) if task.is_exact else None
    at_once = max(1, integer("outputs_at_once", outputs_at_once) // num_outputs)
    questions = torch.arange(len(task.prompts), device=task.prompts.tokens.device)
    drawn = []
    for rows in questions.split(at_once):
        prompts = task.prompts[rows]
        rollouts = sample_groups(model, prompts, num_outputs, max_tokens=task.max_tokens, rng=rng)
        drawn.append(_Drawn(rollouts, task.reward(rollouts, rows)))
    if solutions is None:
        return _sampled_pool(model, drawn, outputs_at_once)
    return _exact_pool(model, solutions, drawn)


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
        scored = scorable(rewards)
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
    outputs = answers.tokens.masked_fill(~answers.mask, -1)
    length = max(len(solution), outputs.shape[1])
    solution = functional.pad(solution, (0, length - len(solution)), value=-1)
    outputs = functional.pad(outputs, (0, length - outputs.shape[1]), value=-1)
    equal = (outputs == solution).all(dim=1).nonzero()
    if len(equal):
        return answers, int(equal[0, 0])
    tokens = torch.cat([outputs, solution[None]])
    rows = torch.cat([answers.prompt, answers.prompt[:1]])
    return Answers(answers.prompts, rows, tokens.clamp(min=0), tokens >= 0), len(outputs)


def _gradient_products(
    model: LanguageModel, drawn: Sequence[_Drawn], outputs_at_once: int
) -> Float[Array, "K K"]:
    """Return the products of the gradients of the objective that parts of the pool estimate.

    Parts share no output, so T_k·T_l is unbiased for ‖∇J‖², given two outputs with a reward in each
    part at each prompt. These are dealt out as `ustat_grpo.pools.measured_moments` leaves them out.
    """
    count = sum(len(rollouts.prompts) for rollouts, _ in drawn)
    parts = []
    for block in range(NUM_BLOCKS):
        total = None
        for rollouts, rewards in drawn:
            scored = scorable(rewards)
            part = scored & ((scored.cumsum(dim=1) - 1) % NUM_BLOCKS == block)
            advantages = Grpo().advantages(rewards.masked_fill(~part, torch.nan))
            weights = advantages / (part.sum(dim=1, keepdim=True).clamp(min=1) * count)
            summand = weighted_score(model, rollouts, weights, rows_per_pass=outputs_at_once)
            total = summand if total is None else tuple(map(torch.add, total, summand))
        assert total is not None
        parts.append(torch.cat([part.flatten() for part in total]).double())
    stacked = torch.stack(parts)
    return (stacked @ stacked.T).cpu().numpy()
