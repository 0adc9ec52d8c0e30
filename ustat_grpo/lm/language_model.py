"""What a language model is here, what it is asked, and what it answers.

Our own transformer and any Hugging Face causal model meet one Protocol; sampling, scoring and
training are functions of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ustat_grpo.inputs.checks import integer

Cache = Any
"""What a model keeps of the tokens so far; only the model looks inside."""

KeysAndValues = tuple[tuple[Tensor, Tensor], ...]
"""The cache of a transformer: two tensors a layer, of shape (n, heads, s, width/heads)."""


class LanguageModel(Protocol):
    """A policy over token sequences: an autoregressive model with a cache."""

    @property
    def end_token(self) -> int:
        """The token that ends an output."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens that prompt and output may have together."""
        ...

    def ended(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs end with the last of their tokens so far."""
        ...

    def __call__(
        self,
        tokens: Int[Tensor, "n t"],
        real: Bool[Tensor, "n s"],
        cache: Cache | None = None,
        *,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "n t v"], Cache]:
        """Return the logits of the token after each of these tokens, and the longer cache.

        Args:
            tokens: the new tokens.
            real: which of all tokens, cached and new, are none of the padding; s ≥ t.
            cache: of the tokens before, or None if these are the first.
            last: of so many tokens at the end the logits are needed; None needs them of all. A
                model may leave out the others.
        """
        ...

    def select(self, cache: Cache, rows: Int[Tensor, " m"]) -> Cache:
        """Return the cache of some rows, which may repeat; gradients flow through it."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters θ; those that require a gradient are trained."""
        ...


def ended_by(end_token: int, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
    """Say which outputs end with the last of their tokens, where one token alone ends them."""
    return outputs[:, -1] == end_token


def last_of(logits: Float[Tensor, "n t v"], last: int | None) -> Float[Tensor, "n l v"]:
    """Return the logits of the last tokens, or of all if `last` is None."""
    return logits if last is None else logits[..., -integer("last", last) :, :]


def places_of(real: Bool[Tensor, "n s"], num_new: int, context_length: int) -> Int[Tensor, "n t"]:
    """Return the places of the new tokens, the last of all, among those that are no padding.

    Raises:
        ValueError: if the tokens are more than the context holds.
    """
    total = real.shape[-1]
    if total > context_length:
        raise ValueError(f"tokens must fit the context of {context_length}, got {total} in all")
    return (real.cumsum(-1) - 1).clamp(min=0)[..., total - num_new :]


def chosen_device(name: str) -> torch.device:
    """Return the device of that name; of `auto`, the GPU if there is one, else the CPU.

    Raises:
        ValueError: if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=torch.device(name)).device
    except Exception as error:  # of many kinds, by device and version
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be auto or one of this machine, got {name!r} ({reason})"
        ) from error


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of unequal length, padded on the left so that all end together.

    Args:
        tokens: shape (B, T).
        real: which tokens are none of the padding, shape (B, T).

    Examples:
        >>> from ustat_grpo.lm import Prompts
        >>> prompts = Prompts.of([[2, 3, 4], [5]], pad_token=0)
        >>> prompts.tokens.tolist(), prompts.real.tolist()
        ([[2, 3, 4], [0, 0, 5]], [[True, True, True], [False, False, True]])
    """

    tokens: Int[Tensor, "B T"]
    real: Bool[Tensor, "B T"]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], *, pad_token: int) -> Self:
        """Pad token sequences on the left.

        Raises:
            ValueError: if there is no prompt, or one has no token.
        """
        if not sequences:
            raise ValueError("prompts must hold at least one, got none")
        lengths = [len(sequence) for sequence in sequences]
        if min(lengths) == 0:
            raise ValueError(f"prompts must not be empty, got one at {lengths.index(0)}")
        longest = max(lengths)
        padded = [[pad_token] * (longest - len(s)) + list(s) for s in sequences]
        return cls(
            torch.tensor(padded),
            torch.arange(longest) >= longest - torch.tensor(lengths)[:, None],
        )

    def __len__(self) -> int:
        """The number of prompts."""
        return len(self.tokens)

    def __getitem__(self, rows: Any) -> Self:
        """Return some of the prompts, by a slice or an index tensor."""
        return type(self)(self.tokens[rows], self.real[rows])

    def to(self, device: torch.device | str) -> Self:
        """Return the prompts on a device."""
        return type(self)(self.tokens.to(device), self.real.to(device))


@dataclass(frozen=True, eq=False)
class Rollouts:
    """G outputs to each of B prompts, with the log-probability of every sampled token.

    Args:
        prompts: the B prompts.
        outputs: tokens, the end token included, padded on the right; shape (B, G, L).
        mask: which tokens belong to an output, shape (B, G, L). What it leaves out is padding,
            whatever tokens stand there: a model may well *sample* its padding token.
        log_probs: log π(token∣prompt, tokens before), shape (B, G, L); 0 outside the mask.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Prompts, Rollouts
        >>> rollouts = Rollouts(
        ...     Prompts.of([[2]], pad_token=0),
        ...     outputs=torch.tensor([[[3, 1], [1, 0]]]),  # B = 1 prompt, G = 2 outputs; 1 ends
        ...     mask=torch.tensor([[[True, True], [True, False]]]),
        ...     log_probs=torch.tensor([[[-0.5, -0.25], [-2.0, 0.0]]]),
        ... )
        >>> rollouts.group_size, rollouts.sequence_log_probs().tolist()
        (2, [[-0.75, -2.0]])
    """

    prompts: Prompts
    outputs: Int[Tensor, "B G L"]
    mask: Bool[Tensor, "B G L"]
    log_probs: Float[Tensor, "B G L"]

    @property
    def group_size(self) -> int:
        """G, the outputs to each prompt."""
        return self.outputs.shape[1]

    def sequence_log_probs(self) -> Float[Tensor, "B G"]:
        """Log π(Y∣X) of the whole outputs."""
        return self.log_probs.sum(dim=-1)
