"""Policy-gradient estimators: rewards of a group of outputs in, advantages out.

An estimator differs from the next only in the baseline that it subtracts from the rewards.
The gradient is the same for all: the mean over the group of advantage × score,

    ĝ(x) = (1/G) Σ_i W_i (Z_i − C_i),

with C_i = 0 for vanilla, V(x) for the oracle and the mean of the *other* rewards for GRPO
(Table 1 of arXiv 2603.01162). NumPy arrays and torch tensors both work, over any leading axes;
the result lives where the rewards live.

A NaN reward marks an output that could not be scored. It is left out of its group: it enters no
baseline, its advantage is 0, and `gradient` averages over the other outputs. In a group with a
single scorable output there are no others to compare it with: the leave-one-out mean is then the
reward itself.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from array_api_compat import array_namespace, device, is_array_api_obj, to_device

from ustat_grpo.checks import leave_one_out_group_size, real

Array: TypeAlias = Any  # a NumPy array or a torch tensor: whatever array_api_compat understands


class Estimator(Protocol):
    """Anything that maps rewards (..., G) to advantages (..., G)."""

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return the advantage of each output.

        Args:
            rewards: Z, shape (..., G).
            value: V(x), shape (...); needed by the oracle only.
            optimal_baseline: b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x], shape (...); needed by
                `OptimalBaseline` only.
        """
        ...


@dataclass(frozen=True)
class Vanilla:
    """REINFORCE without a baseline: A_i = Z_i (Williams 1992). Unbiased."""

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return the rewards themselves; see `Estimator.advantages`."""
        return _subtract(rewards, 0.0)


@dataclass(frozen=True)
class Oracle:
    """The value function as baseline: A_i = Z_i − V(x). Unbiased; needs to know V."""

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the value; see `Estimator.advantages`."""
        return _subtract(rewards, _prompt_level("value", "Oracle", value, rewards))


@dataclass(frozen=True)
class Grpo:
    """Leave-one-out group mean: A_i = Z_i − Z̄^(−i). Unbiased.

    Its gradient is the second-order U-statistic with kernel ½(W_i − W_j)(Z_i − Z_j), that is the
    sample covariance (ddof 1) of score and reward (Lemma 1). Known as RLOO in trainers.
    """

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the mean of the others; see `Estimator.advantages`."""
        return _subtract(rewards, _leave_one_out_mean(rewards))


@dataclass(frozen=True)
class GroupMean:
    """Group mean that includes the output itself: A_i = Z_i − Z̄ = (1 − 1/G)(Z_i − Z̄^(−i)).

    What trainers call GRPO without std normalisation (Dr. GRPO, arXiv 2503.20783). Its mean is
    (1 − 1/G) g(x): at a fixed learning rate a sweep over G is also a sweep over the step size.
    """

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the group mean; see `Estimator.advantages`."""
        leave_one_out_group_size(rewards.shape[-1])
        xp, _, filled, count = _scorable(rewards)
        mean = xp.sum(filled, axis=-1, keepdims=True) / xp.where(count > 0, count, 1.0)
        return _subtract(rewards, mean)


@dataclass(frozen=True)
class ConstantBaseline:
    """One number for all prompts: A_i = Z_i − c. Unbiased.

    Args:
        baseline: c, in units of reward.
    """

    baseline: float

    def __post_init__(self) -> None:
        """Raise if the baseline is no finite number."""
        real("baseline", self.baseline)

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the constant; see `Estimator.advantages`."""
        return _subtract(rewards, float(self.baseline))


@dataclass(frozen=True)
class OptimalBaseline:
    """The prompt-only baseline of least variance: A_i = Z_i − b*(x). Unbiased.

    b*(x) = E[‖W‖²Z∣x]/E[‖W‖²∣x] (Greensmith, Bartlett & Baxter 2004) equals V(x) only if ‖W‖² and
    Z are uncorrelated given x (Assumption 2 of the paper).
    """

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the optimal baseline; see `Estimator.advantages`."""
        known = _prompt_level("optimal_baseline", "OptimalBaseline", optimal_baseline, rewards)
        return _subtract(rewards, known)


@dataclass(frozen=True)
class Shrinkage:
    """Group mean shrunk toward a constant: A_i = Z_i − (1−λ) Z̄^(−i) − λ c. Unbiased.

    Args:
        weight: λ in [0, 1]; 0 is GRPO, 1 the constant baseline.
        target: c, in units of reward; must not be computed from this group.
    """

    weight: float
    target: float = 0.0

    def __post_init__(self) -> None:
        """Raise if the weight lies outside [0, 1] or the target is no finite number."""
        real("target", self.target)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {self.weight!r}")

    def advantages(
        self, rewards: Array, value: Array | None = None, *, optimal_baseline: Array | None = None
    ) -> Array:
        """Return rewards less the shrunk mean of the others; see `Estimator.advantages`."""
        mean = _leave_one_out_mean(rewards)
        weight = float(self.weight)
        return _subtract(rewards, (1 - weight) * mean + weight * float(self.target))


def gradient(
    estimator: Estimator,
    scores: Array,
    rewards: Array,
    value: Array | None = None,
    *,
    optimal_baseline: Array | None = None,
) -> Array:
    """Estimate the policy gradient at each prompt: ĝ(x) = (1/G) Σ_i W_i A_i.

    Average the result over the prompt axis to get the gradient of a minibatch (Algorithm 1).

    Args:
        estimator: turns rewards into advantages.
        scores: W = ∇_θ log π_θ(Y∣X), shape (..., G, d).
        rewards: Z, shape (..., G); NaN marks an unscorable output, over which no mean is taken.
        value: V(x), shape (...), for estimators that need it; torch gradients flow through it.
        optimal_baseline: b*(x), shape (...), for estimators that need it.

    Returns:
        One gradient a prompt, shape (..., d). A group without scorable output gives zero.

    Raises:
        ValueError: if `scores` and `rewards` differ in their leading axes.
    """
    if tuple(scores.shape[:-1]) != tuple(rewards.shape):
        raise ValueError(
            "scores must have the shape of rewards plus one axis, got scores "
            f"{tuple(scores.shape)} and rewards {tuple(rewards.shape)}"
        )
    xp, scored, _, count = _scorable(rewards)
    advantages = estimator.advantages(rewards, value, optimal_baseline=optimal_baseline)
    scores = _floating(xp, scores)
    if not xp.all(scored):  # an unscorable output may well have no score either
        scores = xp.where(scored[..., None], scores, xp.zeros_like(scores))
    weights = xp.astype(advantages / xp.where(count > 0, count, 1.0), scores.dtype, copy=False)
    return xp.matmul(weights[..., None, :], scores)[..., 0, :]


def _scorable(rewards: Array) -> tuple[Any, Array, Array, Array]:
    """Return namespace, mask of scorable rewards, rewards with 0 for NaN, count (..., 1)."""
    xp = array_namespace(rewards)
    rewards = _floating(xp, rewards)
    scored = ~xp.isnan(rewards)
    filled = xp.where(scored, rewards, xp.zeros_like(rewards))
    count = xp.sum(xp.astype(scored, rewards.dtype), axis=-1, keepdims=True)
    return xp, scored, filled, count


def _floating(xp: Any, array: Array) -> Array:
    """Counts and booleans are legitimate rewards; a mean of them needs a floating type."""
    if xp.isdtype(array.dtype, "real floating"):
        return array
    return xp.astype(array, xp.asarray(0.0).dtype)


def _subtract(rewards: Array, baseline: Array | float) -> Array:
    """Return rewards less a baseline, 0 where the reward is NaN."""
    xp, scored, filled, _ = _scorable(rewards)
    centred = filled - baseline
    return xp.where(scored, centred, xp.zeros_like(centred))


def _leave_one_out_mean(rewards: Array) -> Array:
    """Return the mean of the other scorable rewards; an output without others is its own mean."""
    leave_one_out_group_size(rewards.shape[-1])
    xp, _, filled, count = _scorable(rewards)
    others = xp.sum(filled, axis=-1, keepdims=True) - filled
    return xp.where(count > 1, others / xp.where(count > 1, count - 1, 1.0), filled)


def _prompt_level(name: str, estimator: str, known: Array | None, rewards: Array) -> Array:
    """Return side information of shape (...) as (..., 1) in the rewards' type, or raise."""
    if known is None:
        raise ValueError(f"{name} must be given for the {estimator} estimator, got None")
    xp = array_namespace(rewards)
    dtype = _floating(xp, rewards).dtype
    if not is_array_api_obj(known):
        known = xp.asarray(known)
    array = xp.astype(to_device(known, device(rewards)), dtype, copy=False)
    if array.ndim and tuple(array.shape) != tuple(rewards.shape[:-1]):
        raise ValueError(
            f"{name} must have the shape of rewards without its last axis, "
            f"{tuple(rewards.shape[:-1])}, got {tuple(array.shape)}"
        )
    return array[..., None]
