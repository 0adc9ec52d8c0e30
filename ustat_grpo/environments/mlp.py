"""A small neural network as a policy; needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.environments.policies import FeatureMap, Observations
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import generator, integer


@dataclass(frozen=True)
class MlpPolicy:
    """Logits M_L(1, h_{L−1}) with h_l = tanh(M_l(1, h_{l−1})) and h_1 = tanh(M_1 φ(o)), in float64.

    θ holds the matrices one after another, row by row; d = F·k_1 + Σ_l (1 + k_{l−1})·k_l. The first
    has no bias of its own: `Affine` features have a constant, and `OneHot` need none.

    Args:
        features: φ, as of `LinearSoftmax`.
        hidden: k_1, …, k_{L−1}, units of each hidden layer.
        num_actions: A = k_L.

    Raises:
        ValueError: if there is no hidden layer, one without units, or fewer than two actions.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.environments import Affine, MlpPolicy
        >>> policy = MlpPolicy(Affine((1.0, 1.0)), hidden=(4,), num_actions=2)
        >>> theta = policy.initial(np.random.default_rng(0))
        >>> len(theta), policy.logits(theta, np.array([[0.5, 2.0]])).tolist()  # 3·4 + 5·2 weights
        (22, [[0.0, 0.0]])
    """

    features: FeatureMap
    hidden: tuple[int, ...]
    num_actions: int

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not self.hidden:
            raise ValueError(f"hidden must hold the units of at least one layer, got {self.hidden}")
        for units in self.hidden:
            integer("hidden", units)
        integer("num_actions", self.num_actions, at_least=2)

    @property
    def dimension(self) -> int:
        """The length d of θ."""
        return sum(outputs * inputs for outputs, inputs in self._shapes)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of every matrix."""
        first = (self.hidden[0], self.features.num_features)
        later = pairwise((*self.hidden, self.num_actions))
        return [first, *((outputs, 1 + inputs) for inputs, outputs in later)]

    def initial(self, rng: np.random.Generator) -> Float[Array, " d"]:
        """Return normal weights of variance 1/inputs, but zeros in M_L: actions equally likely."""
        generator(rng)
        *before, last = self._shapes
        drawn = [rng.normal(scale=shape[1] ** -0.5, size=shape).ravel() for shape in before]
        return np.concatenate([*drawn, np.zeros(last[0] * last[1])])

    def logits(self, theta: Float[Array, " d"], observations: Observations) -> Float[Array, "n A"]:
        """Return the logits of every action at n observations."""
        with torch.no_grad():
            _, sums = self._layers(theta, observations)
        return sums[-1].numpy()

    def pull_back(
        self,
        theta: Float[Array, " d"],
        observations: Observations,
        weights: Float[Array, "n A"],
        episode: Int[Integers, " n"],
        num_episodes: int,
    ) -> Float[Array, "E d"]:
        """See `Policy.pull_back`.

        The gradient of a matrix is a sum over steps of δ_t ⊗ (1, h_t), δ_t that of what leaves it.
        So one backward pass over all steps gives the gradients of every episode.
        """
        inputs, sums = self._layers(theta, observations)
        slopes = torch.autograd.grad(sums[-1], sums, torch.tensor(weights))
        lengths = np.bincount(episode, minlength=num_episodes).tolist()
        parts = [_outer_sums(*pair, lengths) for pair in zip(slopes, inputs, strict=True)]
        return torch.cat(parts, dim=1).numpy()

    def _layers(
        self, theta: Float[Array, " d"], observations: Observations
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return what enters every matrix and what leaves it; the latter can be differentiated."""
        sizes = [outputs * inputs for outputs, inputs in self._shapes]
        parts = torch.tensor(theta, dtype=torch.float64).split(sizes)
        features = self.features(observations)
        inputs, sums = [torch.tensor(features, dtype=torch.float64)], []
        for part, shape in zip(parts, self._shapes, strict=True):
            if sums:
                inputs.append(torch.nn.functional.pad(sums[-1].tanh(), (1, 0), value=1.0))
            sums.append(inputs[-1] @ part.view(shape).T)
            if len(sums) == 1:
                sums[0].requires_grad_()
        return inputs, sums


def _outer_sums(
    slopes: Float[Tensor, "n O"], inputs: Float[Tensor, "n I"], lengths: Sequence[int]
) -> Float[Tensor, "E O*I"]:
    """Return Σ_t slopes[t] ⊗ inputs[t] over the steps of every episode."""
    pairs = zip(slopes.split(lengths), inputs.detach().split(lengths), strict=True)
    return torch.stack([(slope.T @ given).flatten() for slope, given in pairs])
