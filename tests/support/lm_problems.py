"""A transformer so small that every output it can give is known, with its score by autograd.

Four tokens, of which 0 pads and 1 ends, and outputs of at most two tokens: 1 + 3·4 = 13 of them to
each of three prompts. Sums over these 13 stand where the library samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.lm import Answers, Prompts, Rollouts, Transformer, TransformerShape
from ustat_grpo.moments import Moments
from ustat_grpo.optimization.practice import Practice

Output = tuple[int, ...]

VOCABULARY, END, MAX_TOKENS = 4, 1, 2
PROMPTS = Prompts.of([[2, 3, 2, 2], [3], [0, 2]], pad_token=0)  # the last begins with a real 0


def every_output(max_tokens: int = MAX_TOKENS) -> list[Output]:
    """Every output there is: it ends with the end token, or has the full length without one."""
    others = [token for token in range(VOCABULARY) if token != END]
    ended = [
        (*before, END) for size in range(max_tokens) for before in product(others, repeat=size)
    ]
    return ended + list(product(others, repeat=max_tokens))


OUTPUTS = every_output()


def answers(outputs: list[Output], prompts: Prompts = PROMPTS) -> Answers:
    """One output a prompt."""
    return Answers.of(prompts, [torch.tensor(each) for each in outputs])


RIGHT: list[Output] = [(0, END), (0, 2), (END,)]  # token 0 is also padding; the second never ends
SOLUTIONS = answers(RIGHT)


def tiny(seed: int = 0, **sizes) -> Transformer:
    """A policy in float64 whose distributions are far from uniform; about 600 parameters."""
    shape = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden_width": 16, **sizes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(TransformerShape(VOCABULARY, 8, **shape)).double()
    with torch.no_grad():
        model.head.weight *= 2
    return model


def plain_log_prob(model: Transformer, prompt: int, output: Output) -> torch.Tensor:
    """log π(y∣x) as the definition says."""
    return plain_token_log_probs(model, prompt, output).sum()


def plain_token_log_probs(model: Transformer, prompt: int, output: Output) -> torch.Tensor:
    """log π(y_t∣x, y_<t) of every token of an output."""
    steps = plain_steps(model, prompt, output)
    return steps.gather(-1, torch.tensor(output)[:, None])[:, 0]


def plain_steps(model: Transformer, prompt: int, output: Output) -> torch.Tensor:
    """log π(·∣x, y_<t) at every token of an output: one sequence, no padding, no cache."""
    before = PROMPTS.tokens[prompt][PROMPTS.real[prompt]].tolist()
    tokens = torch.tensor([[*before, *output]])
    logits, _ = model(tokens, torch.ones_like(tokens, dtype=torch.bool))
    return logits[0].log_softmax(dim=-1)[len(before) - 1 : -1]


@dataclass(frozen=True, eq=False)
class Enumerated:
    """Probability and score of every output to every prompt: π (P, K) and W (P, K, d)."""

    probs: Array
    scores: Array

    def moments(self, rewards: Array) -> Moments:
        """The moments for rewards of the K outputs, shape (P, K), by sums over them."""
        return moments_of(self.probs, self.scores, rewards)

    def gradients(self, rewards: Array) -> Array:
        """g(x) = Σ_y π(y∣x) W(y) Z(y), shape (P, d)."""
        return np.einsum("pk,pk,pkd->pd", self.probs, rewards, self.scores)


@cache
def problem() -> tuple[Transformer, Enumerated]:
    """The one policy that most tests use, and all that is to be known of it."""
    model = tiny()
    return model, enumerate_outputs(model)


def enumerate_outputs(model: Transformer, max_tokens: int = MAX_TOKENS) -> Enumerated:
    """Take every output by itself, one backward pass each."""
    probs, scores = [], []
    for prompt, output in product(range(len(PROMPTS)), every_output(max_tokens)):
        log_prob = plain_log_prob(model, prompt, output)
        parts = torch.autograd.grad(log_prob, list(model.parameters()), materialize_grads=True)
        probs.append(log_prob.exp().item())
        scores.append(torch.cat([part.flatten() for part in parts]).numpy())
    shape = (len(PROMPTS), -1)
    return Enumerated(np.reshape(probs, shape), np.reshape(scores, (*shape, len(scores[0]))))


def moments_of(probs: Array, scores: Array, rewards: Array) -> Moments:
    """Moments of P prompts of equal weight by sums over K cells each: probability, W and Z."""
    value = (probs * rewards).sum(axis=1)
    centred = rewards - value[:, None]
    norms = (scores**2).sum(axis=2)
    gradient = np.einsum("pk,pk,pkd->pd", probs, centred, scores)
    squared = (gradient**2).sum(axis=1)
    return Moments(
        prompt_probs=np.full(len(probs), 1 / len(probs)),
        value=value,
        reward_variance=(probs * centred**2).sum(axis=1),
        score_norm_squared=(probs * norms).sum(axis=1),
        oracle_norm_squared=(probs * norms * centred**2).sum(axis=1),
        score_norm_reward_covariance=(probs * norms * centred).sum(axis=1),
        gradient_norm_squared=squared,
        prompt_noise=float(squared.mean() - (gradient.mean(axis=0) ** 2).sum()),
    )


MOMENTS = (
    "value",
    "reward_variance",
    "score_norm_squared",
    "oracle_norm_squared",
    "score_norm_reward_covariance",
    "gradient_norm_squared",
)
"""The moments that are one number a prompt."""


def matches(right: list[Output] = RIGHT) -> Array:
    """Z of the exact-match reward, shape (P, K)."""
    return np.array([[float(output == each) for output in OUTPUTS] for each in right])


def grade(output: Output, question: int) -> float:
    """A reward of three levels, 0, 1 and 2, that depends on every token and on the question."""
    return float((output[0] + 2 * sum(output[1:]) + question) % 3)


def grades() -> Array:
    """Z of `grade`, shape (P, K)."""
    return np.array([[grade(each, row) for each in OUTPUTS] for row in range(len(PROMPTS))])


def graded(rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
    """`grade` as a reward of rollouts."""
    groups = zip(outputs_in(rollouts), questions.tolist(), strict=True)
    rewards = [[grade(output, question) for output in group] for group, question in groups]
    return torch.tensor(rewards, dtype=torch.float64)


def outputs_in(rollouts: Rollouts) -> list[list[Output]]:
    """The outputs of every group, without padding."""
    return [
        [tuple(output[real].tolist()) for output, real in zip(*group, strict=True)]
        for group in zip(rollouts.outputs, rollouts.mask, strict=True)
    ]


def rollouts_of(groups: list[list[Output]], prompts: Prompts = PROMPTS) -> Rollouts:
    """Groups of equal size as if they had been sampled; what stands in the padding is noise."""
    longest = max(len(output) for group in groups for output in group)
    tokens = [[[*each, *([3] * (longest - len(each)))] for each in group] for group in groups]
    mask = torch.tensor([[[t < len(y) for t in range(longest)] for y in group] for group in groups])
    return Rollouts(prompts[: len(groups)], torch.tensor(tokens), mask, mask.double())


def generator(seed: int = 0) -> torch.Generator:
    """A torch generator of its own."""
    return torch.Generator().manual_seed(seed)


def flat(gradient: Iterable[torch.Tensor]) -> Array:
    """All parts of a gradient in one vector."""
    return torch.cat([part.detach().flatten() for part in gradient]).numpy()


def trainers_objective(
    now: torch.Tensor,
    old: torch.Tensor,
    advantage: float,
    reference: torch.Tensor,
    practice: Practice,
) -> torch.Tensor:
    """Σ_t of PPO's surrogate less κ k, as trainers write it: of one output, by its tokens."""
    log_ratio = {"token": now - old, "sequence": (now - old).sum(), "none": now}[practice.ratio]
    ratio = now if practice.ratio == "none" else log_ratio.exp()
    gained = advantage * ratio
    if practice.clip is not None and practice.ratio != "none":
        low, high = practice.clip
        gained = torch.minimum(gained, advantage * ratio.clamp(1 - low, 1 + high))
    log = now - reference
    loss = {"k1": log, "k2": log**2 / 2, "k3": torch.exp(-log) - 1 + log}[practice.penalty]
    return gained.sum() - practice.penalty_weight * loss.sum()
