"""One use of a layer in a forward pass, and what it contributes to the scores of single outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WAY_OUT = "probe_norms works for any model"


@dataclass(frozen=True, eq=False)
class Part:
    """Summands of one parameter's gradient, a p×q matrix: row u has Σ_t left_ut right_utᵀ.

    Args:
        left: shape (n, t, p); or integers, shape (n, t), each for the unit vector of this number.
        right: shape (n, t, q).
        matrix: of a parameter that is several p×q matrices, which of them a summand belongs to;
            shape (n, t).
    """

    left: Tensor
    right: Tensor
    matrix: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """A module, its own trained parameters by their names in it, and how they get their parts."""

    name: str
    module: nn.Module
    trained: dict[str, nn.Parameter]
    rule: "Rule"


@dataclass(eq=False)
class Call:
    """One use of a layer, and what it read.

    Args:
        layer: whose use it is.
        args: what it read.
        kwargs: what it read by name.
        num_rows: n. The first axis of what was read is the rows, or rows and tokens.
        shape: of the output.
        names: the parameters that were used.
        rule: how they get their parts.
    """

    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    num_rows: int
    shape: torch.Size
    names: tuple[str, ...]
    rule: "Rule"

    def __post_init__(self) -> None:
        """Note the state that the inputs are in."""
        self.versions: list[int] = [x._version for x in self.inputs]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that it read, the main one first."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)]

    def vectors(self, tensor: Tensor) -> Tensor:
        """Return a tensor of shape (n, …, width) or (n t, width) as one of shape (n, t, width)."""
        return tensor.reshape(self.num_rows, -1, tensor.shape[-1])


Rule = Callable[[Call, Tensor], Iterator[tuple[str, Part]]]
"""From a call and its δ, shape (n, …, width), to the parts of its parameters, by name."""


def parts_of(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Yield the parts by their parameters' names; half precision becomes single, to be summed.

    Raises:
        RuntimeError: if an input was changed in place.
    """
    if [x._version for x in call.inputs] != call.versions:
        raise RuntimeError(
            f"layers' inputs must not be changed in place, got that of {call.layer.name!r}"
        )
    for name, part in call.rule(call, delta):
        kind = torch.promote_types(call.layer.trained[name].dtype, torch.float32)
        left = part.left.to(kind) if part.left.is_floating_point() else part.left
        yield name, Part(left, part.right.to(kind), part.matrix)


def matrices(parts: list[Part], parameter: Tensor) -> Iterator[tuple[list[Part], Tensor]]:
    """Yield the matrices that a parameter consists of, each with its parts; mostly it is one.

    Of several, those without summands are left out. Rows with fewer summands than others get
    zeros.
    """
    if parts[0].matrix is None:
        yield parts, parameter
        return
    seen = torch.cat([part.matrix.flatten() for part in parts if part.matrix is not None])
    for number in seen.unique().tolist():
        yield [_summands(part, number) for part in parts], parameter[number]


def _summands(part: Part, number: int) -> Part:
    """Return the summands that belong to one matrix, in front, as many as the longest row has."""
    here = part.matrix == number
    most = max(1, int(here.sum(dim=1).max()))
    order = here.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most, None]
    right = part.right.take_along_dim(order, dim=1)
    right = right.masked_fill(~here[..., None].take_along_dim(order, dim=1), 0.0)
    return Part(part.left.take_along_dim(order, dim=1), right)
