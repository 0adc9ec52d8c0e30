"""A finite problem frozen at one parameter θ: everything exact starts here."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import generator, integer
from ustat_grpo.moments import Moments, NoiseComponents, OutcomeMoments


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Prompts, policy, scores and rewards of a softmax bandit at one θ.

    The score of output y at prompt x is W(x, y) = φ(x, y) − E[φ(x, Y)∣x]. With `features=None`
    the features are one-hot over (x, y), θ has d = P·K entries, and the score is
    W(x, y) = e_{xy} − Σ_k π(k∣x) e_{xk}: no (P, K, d) array is ever built.

    Args:
        prompt_probs: f(x), shape (P,).
        action_probs: π_θ(y∣x), shape (P, K).
        reward_levels: the values that a reward can take, shape (L,).
        reward_probs: P(Z = level∣x, y), shape (P, K, L).
        features: φ(x, y), shape (P, K, d), or None for one-hot features.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit
        >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # a wrong and a right answer
        >>> snapshot = coin.at([0, 0])
        >>> snapshot.objective, snapshot.dense_scores().tolist(), snapshot.gradient.tolist()
        (0.5, [[[0.5, -0.5], [-0.5, 0.5]]], [-0.25, 0.25])
    """

    prompt_probs: Float[Array, " P"]
    action_probs: Float[Array, "P K"]
    reward_levels: Float[Array, " L"]
    reward_probs: Float[Array, "P K L"]
    features: Float[Array, "P K d"] | None = None

    @property
    def dimension(self) -> int:
        """The length d of θ."""
        return self.action_probs.size if self.features is None else self.features.shape[-1]

    @cached_property
    def mean_reward(self) -> Float[Array, "P K"]:
        """E[Z∣x, y], shape (P, K); between the levels, where rounding would take it beyond."""
        levels = self.reward_levels
        return np.clip(self.reward_probs @ levels, levels.min(), levels.max())

    @cached_property
    def value(self) -> Float[Array, " P"]:
        """V(x) = E[Z∣x], shape (P,); between the mean rewards, likewise."""
        rewards = self.mean_reward
        value = np.einsum("pk,pk->p", self.action_probs, rewards)
        return np.clip(value, rewards.min(axis=-1), rewards.max(axis=-1))

    @cached_property
    def centred_square_reward(self) -> Float[Array, "P K"]:
        """E[A²∣x, y] with A = Z − V(x), shape (P, K)."""
        deviation = self.reward_levels - self.value[:, None]
        return np.einsum("pkl,pl->pk", self.reward_probs, deviation**2)

    @cached_property
    def objective(self) -> float:
        """J(θ) = E[Z]."""
        return float(self.prompt_probs @ self.value)

    @cached_property
    def score_norm_squared(self) -> Float[Array, "P K"]:
        """‖W(x, y)‖², shape (P, K)."""
        if self.features is None:
            probs = self.action_probs
            return 1 - 2 * probs + np.einsum("pk,pk->p", probs, probs)[:, None]
        scores = self.dense_scores()
        return np.einsum("pkd,pkd->pk", scores, scores)

    def dense_scores(self) -> Float[Array, "P K d"]:
        """Return W(x, y) as one array (P, K, d); for one-hot features that is P²K² numbers."""
        features = self.features
        if features is None:
            size = self.action_probs.size
            features = np.eye(size).reshape(*self.action_probs.shape, size)
        return features - np.einsum("pk,pkd->pd", self.action_probs, features)[:, None]

    @cached_property
    def prompt_gradients(self) -> Float[Array, "P ..."]:
        """g(x) = E[WA∣x]: shape (P, d), or its one nonzero block (P, K) for one-hot features.

        The block is π(y∣x)(E[Z∣x, y] − V(x)), since π-weighted centred rewards sum to zero.
        """
        weights = self.action_probs * (self.mean_reward - self.value[:, None])
        if self.features is None:
            return weights
        return np.einsum("pk,pkd->pd", weights, self.features)

    @cached_property
    def gradient(self) -> Float[Array, " d"]:
        """g = ∇J(θ) = E g(X), shape (d,)."""
        if self.features is None:
            return (self.prompt_probs[:, None] * self.prompt_gradients).ravel()
        return self.prompt_probs @ self.prompt_gradients

    @cached_property
    def optimal_baseline(self) -> Float[Array, " P"]:
        """b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x] = V + m/s, shape (P,); V where the policy is certain."""
        moments = self.moments
        norm = moments.score_norm_squared
        return self.value + np.divide(
            moments.score_norm_reward_covariance, norm, out=np.zeros_like(norm), where=norm > 0
        )

    @cached_property
    def moments(self) -> Moments:
        """The exact per-prompt moments, each of shape (P,)."""
        centred = self.mean_reward - self.value[:, None]
        centred_square = self.centred_square_reward
        probs, norm = self.action_probs, self.score_norm_squared
        weighted_norm = probs * norm
        gradients = self.prompt_gradients
        return Moments(
            prompt_probs=self.prompt_probs,
            value=self.value,
            reward_variance=np.einsum("pk,pk->p", probs, centred_square),
            score_norm_squared=weighted_norm.sum(axis=-1),
            oracle_norm_squared=np.einsum("pk,pk->p", weighted_norm, centred_square),
            score_norm_reward_covariance=np.einsum("pk,pk->p", weighted_norm, centred),
            gradient_norm_squared=np.einsum("pj,pj->p", gradients, gradients),
            prompt_noise=self._prompt_noise(),
            outcome=self._outcome_moments(),
        )

    @property
    def noise(self) -> NoiseComponents:
        """The noise components c₁, c₂ and c₃ of a minibatch gradient."""
        return self.moments.noise

    def sample_groups(
        self, batch_size: int, group_size: int, rng: np.random.Generator
    ) -> tuple[Int[Integers, " B"], Int[Integers, "B G"], Float[Array, "B G"]]:
        """Draw a minibatch: prompts X ~ f, outputs Y ~ π_θ(·∣X) to each, and their rewards Z.

        All prompts are drawn first, then all outputs, then all rewards.

        Args:
            batch_size: B; a prompt that is drawn twice makes two groups.
            group_size: G, outputs to each prompt.
            rng: source of randomness.

        Returns:
            Prompts x, shape (B,), outputs y, shape (B, G), both as numbers, and rewards Z, shape
            (B, G).

        Raises:
            TypeError: if `rng` is no numpy.random.Generator.
            ValueError: if `batch_size` or `group_size` is no integer of at least 1.

        Examples:
            >>> import numpy as np
            >>> from ustat_grpo import SoftmaxBandit
            >>> coin = SoftmaxBandit.tabular([0, 1], [[[1, 0], [0, 1]]])  # output 1 is right
            >>> rng = np.random.default_rng(0)
            >>> prompts, outputs, rewards = coin.at([0, 0]).sample_groups(2, 3, rng)
            >>> prompts.tolist(), bool((rewards == outputs).all()), rewards.shape
            ([0, 0], True, (2, 3))
        """
        shape = integer("batch_size", batch_size), integer("group_size", group_size)
        source = generator(rng)
        prompts = source.choice(len(self.prompt_probs), size=shape[0], p=self.prompt_probs)
        outputs = _drawn(self.action_probs[prompts][:, None], shape, source)
        levels = _drawn(self.reward_probs[prompts[:, None], outputs], shape, source)
        return prompts, outputs, self.reward_levels[levels]

    def _prompt_noise(self) -> float:
        """c₁ as a sum of squares: the difference E‖g(X)‖² − ‖g‖² would cancel for large G*."""
        weights, gradients = self.prompt_probs, self.prompt_gradients
        if self.features is None:  # g(x) and g(x′) do not overlap, hence ‖g‖² = Σ f²‖g(x)‖²
            weights, deviations = weights * (1 - weights), gradients
        else:
            deviations = gradients - self.gradient
        return float(weights @ np.einsum("pj,pj->p", deviations, deviations))

    def _outcome_moments(self) -> OutcomeMoments | None:
        if not np.array_equal(np.sort(self.reward_levels), [0.0, 1.0]):
            return None
        success = self.action_probs * self.mean_reward
        failure = self.action_probs * (1 - self.mean_reward)
        conditional = [
            np.divide(
                np.einsum("pk,pk->p", joint, self.score_norm_squared),
                joint.sum(axis=-1),
                out=np.zeros(len(joint)),
                where=joint.sum(axis=-1) > 0,
            )
            for joint in (success, failure)
        ]
        return OutcomeMoments(self.value, *conditional)


def _drawn(probs: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Integers:
    """Draw from distributions along the last axis, whose others have the shape."""
    ends = probs.cumsum(axis=-1)
    numbers = rng.random(shape) * ends[..., -1]
    return (numbers[..., None] >= ends[..., :-1]).sum(axis=-1)
