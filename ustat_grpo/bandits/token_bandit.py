"""Bandits whose outputs are several tokens: the smallest problem on which token ratios matter."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import finite, integer, probabilities, same_length
from ustat_grpo.moments import Moments, NoiseComponents


@dataclass(frozen=True, eq=False)
class TokenSnapshot:
    """Every output of a token bandit at one θ.

    Args:
        prompt_probs: f(x), shape (P,).
        rewards: Z(x, y), shape (P, M).
        token_log_probs: log π_θ(y_t∣x, y_<t), shape (P, M, T).
        token_scores: w_t = ∇_θ log π_θ(y_t∣x, y_<t), shape (P, M, T, d).
    """

    prompt_probs: Float[Array, " P"]
    rewards: Float[Array, "P M"]
    token_log_probs: Float[Array, "P M T"]
    token_scores: Float[Array, "P M T d"]

    @cached_property
    def output_probs(self) -> Float[Array, "P M"]:
        """π_θ(y∣x) = Π_t π_θ(y_t∣x, y_<t), shape (P, M)."""
        return np.exp(self.token_log_probs.sum(axis=-1))

    @cached_property
    def scores(self) -> Float[Array, "P M d"]:
        """W = Σ_t w_t, shape (P, M, d)."""
        return self.token_scores.sum(axis=-2)

    @cached_property
    def value(self) -> Float[Array, " P"]:
        """V(x) = E[Z∣x], shape (P,)."""
        return np.sum(self.output_probs * self.rewards, axis=-1)

    @cached_property
    def gradient(self) -> Float[Array, " d"]:
        """∇J = E[WZ], shape (d,)."""
        return self.prompt_probs @ self._prompt_gradients

    @cached_property
    def _prompt_gradients(self) -> Float[Array, "P d"]:
        centred = self.rewards - self.value[:, None]  # E[W] = 0: a large offset must not cancel
        return np.einsum("pm,pmd->pd", self.output_probs * centred, self.scores)

    @cached_property
    def noise(self) -> NoiseComponents:
        """The noise components c₁, c₂, c₃ of a whole output as one action."""
        norms, mean = np.sum(self.scores**2, axis=-1), self._prompt_gradients
        centred = self.rewards - self.value[:, None]

        def expected(values: Array) -> Array:
            return np.sum(self.output_probs * values, axis=-1)

        gradient_norms = np.sum(mean**2, axis=-1)
        # E‖g(X)‖² − ‖g‖² would cancel where prompts agree.
        deviations = np.sum((mean - self.gradient) ** 2, axis=-1)
        return Moments(
            prompt_probs=self.prompt_probs,
            value=self.value,
            reward_variance=expected(centred**2),
            score_norm_squared=expected(norms),
            oracle_norm_squared=expected(norms * centred**2),
            score_norm_reward_covariance=expected(norms * centred),
            gradient_norm_squared=gradient_norms,
            prompt_noise=float(self.prompt_probs @ deviations),
        ).noise


@dataclass(frozen=True, eq=False)
class TokenBandit:
    """A bandit whose outputs are T tokens of K values each, drawn one after the other.

    π_θ(v∣x, h) ∝ exp(φ(x, h, v)·θ + offset(x, h, v)) for the next token v after the prefix h. The
    H = (K^T − 1)/(K − 1) prefixes stand in order of length, then of their tokens; the M = K^T
    outputs in the order of their tokens.

    Args:
        features: φ, shape (P, H, K, d).
        rewards: Z(x, y) of each whole output, shape (P, M).
        prompt_probs: f(x), shape (P,); uniform if None.
        offsets: part of the logits that θ does not move, shape (P, H, K); zero if None.

    Raises:
        ValueError: if shapes disagree, or a number is not finite.

    Examples:
        >>> from ustat_grpo.bandits import TokenBandit
        >>> features = [[[[0], [1]]] * 3]  # one prompt, prefixes (), (0), (1), two values, d = 1
        >>> bandit = TokenBandit(features, rewards=[[0, 0, 0, 1]])  # right is the output (1, 1)
        >>> snapshot = bandit.at([0.0])
        >>> snapshot.output_probs.round(6).tolist(), snapshot.gradient.round(6).tolist()
        ([[0.25, 0.25, 0.25, 0.25]], [0.25])
    """

    features: Float[Array, "P H K d"]
    rewards: Float[Array, "P M"]
    prompt_probs: Float[Array, " P"] | None = None
    offsets: Float[Array, "P H K"] | None = None

    def __post_init__(self) -> None:
        """Check the arrays and fill in defaults."""
        features = finite("features", self.features, ndim=4)
        rewards = finite("rewards", self.rewards, ndim=2)
        num_prompts, num_prefixes, num_values, _ = features.shape
        if self.prompt_probs is None:
            prompts = np.full(num_prompts, 1 / num_prompts)
        else:
            prompts = probabilities("prompt_probs", self.prompt_probs, ndim=1)
        shape = features.shape[:3]
        offsets = np.zeros(shape) if self.offsets is None else self.offsets
        offsets = finite("offsets", offsets, ndim=3)
        lengths = {"features": num_prompts, "rewards": len(rewards), "prompt_probs": len(prompts)}
        same_length("prompts", lengths)
        if offsets.shape != shape:
            raise ValueError(f"offsets must have the shape {shape}, got {offsets.shape}")
        num_tokens = _num_tokens(num_values, rewards.shape[1])
        if num_prefixes != num_shorter(num_values, num_tokens):
            raise ValueError(
                f"features must hold {num_shorter(num_values, num_tokens)} prefixes for "
                f"outputs of {num_tokens} tokens of {num_values} values, got {num_prefixes}"
            )
        for name, array in {
            "features": features, "rewards": rewards, "prompt_probs": prompts, "offsets": offsets
        }.items():  # fmt: skip
            object.__setattr__(self, name, array)

    @property
    def dimension(self) -> int:
        """The length d of θ."""
        return self.features.shape[-1]

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The prefix before each token of each output, and that token; shapes (M, T)."""
        num_values, num_outputs = self.features.shape[2], self.rewards.shape[1]
        num_tokens = _num_tokens(num_values, num_outputs)
        outputs, before = np.arange(num_outputs)[:, None], np.arange(num_tokens)
        first = [num_shorter(num_values, length) for length in range(num_tokens)]
        prefixes = np.array(first) + outputs // num_values ** (num_tokens - before)
        return prefixes, outputs // num_values ** (num_tokens - 1 - before) % num_values

    def at(self, theta: ArrayLike) -> TokenSnapshot:
        """Return every output at one parameter.

        Args:
            theta: θ, shape (d,).

        Raises:
            ValueError: if θ has another length than `dimension`, or is not finite.
        """
        parameters = finite("theta", theta, ndim=1)
        if len(parameters) != self.dimension:
            raise ValueError(f"theta must have length {self.dimension}, got {len(parameters)}")
        assert self.offsets is not None and self.prompt_probs is not None
        logits = self.features @ parameters + self.offsets
        logits = logits - logits.max(axis=-1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        means = np.einsum("phv,phvd->phd", np.exp(log_probs), self.features)
        scores = self.features - means[:, :, None]
        prefixes, tokens = self._places
        return TokenSnapshot(
            self.prompt_probs,
            self.rewards,
            log_probs[:, prefixes, tokens],
            scores[:, prefixes, tokens],
        )


def num_shorter(num_values: int, length: int) -> int:
    """Return how many sequences are shorter than `length`: 1 + K + … + K^(length−1)."""
    return sum(num_values**shorter for shorter in range(length))


def _num_tokens(num_values: int, num_outputs: int) -> int:
    """Return T with K^T outputs, or raise."""
    length = round(np.log(num_outputs) / np.log(num_values)) if num_values > 1 else 0
    if length < 1 or num_values**length != num_outputs:
        raise ValueError(
            f"rewards must hold one for each of K^T outputs, K = {num_values}, got {num_outputs}"
        )
    return length


def random_token_bandit(
    num_prompts: int,
    num_tokens: int,
    *,
    num_values: int = 2,
    dimension: int = 4,
    reward_levels: ArrayLike = (0.0, 1.0),
    rng: np.random.Generator,
) -> TokenBandit:
    """Draw a token bandit without symmetry: all prefixes share few parameters.

    Features and offsets are normal, so that tokens at different places move the same θ; rewards are
    drawn from the levels, of which every prompt has at least two.

    Args:
        num_prompts: P.
        num_tokens: T.
        num_values: K.
        dimension: d.
        reward_levels: the values that a reward can take, at least two.
        rng: source of randomness.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.bandits import random_token_bandit
        >>> bandit = random_token_bandit(3, num_tokens=2, rng=np.random.default_rng(0))
        >>> snapshot = bandit.at(np.zeros(bandit.dimension))
        >>> snapshot.output_probs.shape, snapshot.scores.shape  # 3 prompts, 2² outputs, d = 4
        ((3, 4), (3, 4, 4))
    """
    num_prompts, num_tokens = integer("num_prompts", num_prompts), integer("num_tokens", num_tokens)
    num_values = integer("num_values", num_values, at_least=2)
    levels = finite("reward_levels", reward_levels, ndim=1)
    shape = (num_prompts, num_shorter(num_values, num_tokens), num_values)
    features = rng.normal(size=(*shape, integer("dimension", dimension)))
    rewards = rng.choice(levels, size=(num_prompts, num_values**num_tokens))
    rewards[:, :2] = levels[:2]
    return TokenBandit(features, rewards, offsets=rng.normal(size=shape))
