"""What all rows share when they answer one prompt: whatever a model makes of the prompt's tokens.

A causal model makes the same of them in every row, so a forward pass of n rows need keep them once
for the way back. Where outputs are short, that is most of the memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ustat_grpo.lm.scoring import Answers

ROUNDING = 256
"""How many units of rounding may lie between vectors that would be equal without it."""

Unpack = Callable[[], Tensor]


def num_shared(vectors: Float[Tensor, "n t q"]) -> int:
    """Count the tokens, from the first one on, whose vectors are the same in all rows.

    The same but for rounding: a row's place in a product of matrices may change its last digits.
    """
    near = ROUNDING * torch.finfo(vectors.dtype).eps
    same = (vectors - vectors[0]).norm(dim=-1) <= near * vectors[0].norm(dim=-1)
    return int(same.all(dim=0).int().cumprod(dim=0).sum())


@contextmanager
def prompt_kept_once(answers: Answers) -> Iterator[None]:
    """Let a forward pass of whole sequences keep one copy of what it needs of a common prompt.

    Does nothing for rows of several prompts.

    Raises:
        RuntimeError: on the way back, if a tensor that was kept as it is was changed in place.
    """
    if len(answers) < 2 or len(answers.prompts) > 1:
        yield
        return
    rows, first = len(answers), answers.prompts.tokens.shape[1]
    tokens = first + answers.tokens.shape[1] - 1

    def pack(tensor: Tensor) -> Unpack:
        for axis in (1, 2):  # of heads there are as many as they like, of tokens not
            if tensor.dim() > axis and (len(tensor), tensor.shape[axis]) == (rows, tokens):
                shared, own = tensor.split([first, tokens - first], dim=axis)
                if _is_shared(shared, axis):
                    return _two_parts(shared[:1].clone(), own.clone(), axis)
        return _as_it_is(tensor)

    with saved_tensors_hooks(pack, lambda unpack: unpack()):
        yield


def _is_shared(tensor: Tensor, axis: int) -> bool:
    """Say whether the first and the last row are the same, as in what is no axis of tokens."""
    if not tensor.is_floating_point():
        return False
    ends = tensor[:: max(1, len(tensor) - 1)].movedim(axis, 1).flatten(2)
    return num_shared(ends) == ends.shape[1]


def _two_parts(shared: Tensor, own: Tensor, axis: int) -> Unpack:
    def unpack() -> Tensor:
        return torch.cat([shared.expand(len(own), *shared.shape[1:]), own], dim=axis)

    return unpack


def _as_it_is(tensor: Tensor) -> Unpack:
    version = tensor._version

    def unpack() -> Tensor:
        if tensor._version != version:
            raise RuntimeError(
                "what a model keeps for the way back must not be changed in place, got a tensor "
                f"of shape {tuple(tensor.shape)} that was"
            )
        return tensor

    return unpack
