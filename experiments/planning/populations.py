"""Populations whose noise is known, and samples of them: what an estimate of noise is tried on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo import Moments, NoiseComponents, Snapshot
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.noise import OutputSample

if TYPE_CHECKING:
    import torch

    from experiments.tasks.language import Panel


_AT_ONCE = 64
"""Samples that meet the products of scores in one multiplication of matrices."""


@dataclass(frozen=True, eq=False)
class Population:
    """P prompts, equally likely, each with finitely many outputs of one reward each.

    Scores are W(y) = φ(y) − E[φ(Y)∣x], as those of a softmax policy; φ itself is not needed.

    Args:
        prompts: which prompt each output answers, shape (U,), ascending from 0.
        probs: π(y∣x), shape (U,), of sum 1 over the outputs to a prompt.
        rewards: Z, shape (U,).
        products: φ(y)·φ(y′), shape (U, U).
    """

    prompts: Int[Integers, " U"]
    probs: Float[Array, " U"]
    rewards: Float[Array, " U"]
    products: Float[Array, "U U"]

    @cached_property
    def noise(self) -> NoiseComponents:
        """c₁, c₂ and c₃, from their definitions."""
        value = self._mean(self.rewards)
        centred = self.rewards - value[self.prompts]
        # E[WA∣x] = E[φA∣x], for E[A∣x] = 0.
        weights = self._own_prompt * (self.probs * centred)[:, None]
        gradients = weights.T @ self.products @ weights
        return Moments(
            prompt_probs=np.full(len(value), 1 / len(value)),
            value=value,
            reward_variance=self._mean(centred**2),
            score_norm_squared=self._mean(self.score_norms),
            oracle_norm_squared=self._mean(self.score_norms * centred**2),
            score_norm_reward_covariance=self._mean(self.score_norms * centred),
            gradient_norm_squared=gradients.diagonal(),
            prompt_noise=float(gradients.diagonal().mean() - gradients.mean()),
        ).noise

    @cached_property
    def score_norms(self) -> Float[Array, " U"]:
        """‖W(y)‖² = ‖φ(y)‖² − 2 φ(y)·E[φ∣x] + ‖E[φ∣x]‖², shape (U,)."""
        with_means = self.products @ (self._own_prompt * self.probs[:, None])
        with_mean = np.take_along_axis(with_means, self.prompts[:, None], axis=1)[:, 0]
        of_means = self._mean(with_mean)[self.prompts]
        # Rounding may pass zero where an output is all but certain.
        return np.maximum(self.products.diagonal() - 2 * with_mean + of_means, 0.0)

    def samples(
        self, num_prompts: int, num_outputs: int, streams: Sequence[np.random.Generator]
    ) -> Iterator[OutputSample]:
        """Yield a sample from each stream: prompts drawn i.i.d., outputs i.i.d. given the prompt.

        Args:
            num_prompts: B; a prompt that is drawn twice makes two groups.
            num_outputs: M, to each prompt.
            streams: sources of randomness, one a sample.
        """
        for start in range(0, len(streams), _AT_ONCE):
            drawn = [
                self._draw(num_prompts, num_outputs, rng)
                for rng in streams[start : start + _AT_ONCE]
            ]
            weighted = np.array([
                np.bincount(places.ravel(), weights.ravel(), len(self.probs))
                for places, weights in drawn
            ])  # fmt: skip
            for (places, weights), with_sum in zip(drawn, weighted @ self.products, strict=True):
                yield self._measured(places, weights, with_sum)

    def _draw(
        self, num_prompts: int, num_outputs: int, rng: np.random.Generator
    ) -> tuple[Int[Integers, "B M"], Float[Array, "B M"]]:
        """Return outputs, and the weights a = (Z − Z̄⁽⁻ⁱ⁾)/M of which ĝ = Σ aW is made."""
        starts = np.searchsorted(self.prompts, np.arange(self.prompts[-1] + 2))
        asked = rng.integers(len(starts) - 1, size=num_prompts)[:, None]
        heights = asked + rng.random((num_prompts, num_outputs))
        places = np.searchsorted(np.cumsum(self.probs), heights, side="right")
        places = np.clip(places, starts[asked], starts[asked + 1] - 1)  # rounding of the sum
        rewards = self.rewards[places]
        return places, (rewards - rewards.mean(axis=1, keepdims=True)) / (num_outputs - 1)

    def _measured(
        self,
        places: Int[Integers, "B M"],
        weights: Float[Array, "B M"],
        with_sum: Float[Array, " U"],
    ) -> OutputSample:
        """Return the sample of outputs, given the products of all φ with Σ ĝ."""
        within = self.products[places[:, :, None], places[:, None, :]]
        norms = (weights[:, None, :] @ within @ weights[:, :, None])[:, 0, 0]
        return OutputSample(
            rewards=self.rewards[places.ravel()],
            score_norms=self.score_norms[places.ravel()],
            prompts=np.repeat(np.arange(len(places)), places.shape[1]),
            gradient_norms=np.maximum(norms, 0.0),
            gradient_products=np.einsum("bm,bm->b", weights, with_sum[places]),
        )

    @cached_property
    def _own_prompt(self) -> Float[Array, "U P"]:
        """1 at the prompt of each output."""
        return np.eye(self.prompts[-1] + 1)[self.prompts]

    def _mean(self, values: Float[Array, " U"]) -> Float[Array, " P"]:
        """Return E[·∣x], shape (P,)."""
        return np.bincount(self.prompts, self.probs * values).astype(np.float64)


def population_of_bandit(snapshot: Snapshot) -> Population:
    """Return a bandit at one θ as a population; an action with another reward is another output.

    Args:
        snapshot: with prompts that are equally likely.
    """
    levels = len(snapshot.reward_levels)
    scores = snapshot.dense_scores().reshape(-1, snapshot.dimension)
    products = (scores @ scores.T).repeat(levels, axis=0).repeat(levels, axis=1)
    probs = snapshot.action_probs[..., None] * snapshot.reward_probs
    outputs = probs[0].size
    return Population(
        prompts=np.repeat(np.arange(len(probs)), outputs),
        probs=probs.ravel(),
        rewards=np.resize(snapshot.reward_levels, probs.size),
        products=products,
    )


def population_of_policy(
    panel: "Panel", num_questions: int, num_outputs: int, rng: "torch.Generator"
) -> Population:
    """Return a language model that is made to choose among outputs that it gave.

    It is the softmax policy over the distinct outputs to each question, π(y∣x)/Σπ, whose score is
    the model's less its mean.

    Args:
        panel: the model and its questions.
        num_questions: how many of them, from the first.
        num_outputs: sampled to each question.
        rng: source of the outputs.
    """
    import torch

    from ustat_grpo.lm.sampling import sample_groups
    from ustat_grpo.lm.scores.products import score_gram
    from ustat_grpo.lm.scoring import distinct, log_probs

    questions = torch.arange(num_questions, device=panel.prompts.tokens.device)
    rollouts = sample_groups(
        panel.model, panel.prompts[questions], num_outputs, max_tokens=panel.max_tokens, rng=rng
    )
    answers, place = distinct(rollouts)
    rewards = torch.zeros(len(answers), dtype=torch.float64, device=place.device)
    rewards[place] = panel.reward(rollouts, questions).double()
    with torch.no_grad():
        probs = log_probs(panel.model, answers).double().sum(dim=1).exp()
    total = torch.zeros(num_questions, dtype=probs.dtype, device=probs.device)
    total.index_add_(0, answers.prompt, probs)
    return Population(
        prompts=answers.prompt.cpu().numpy(),
        probs=(probs / total[answers.prompt]).cpu().numpy(),
        rewards=rewards.cpu().numpy(),
        products=score_gram(panel.model, answers).double().cpu().numpy(),
    )
