"""Products with a layer's matrices, seen where they happen: inside of its forward.

GPT-2's `Conv1D` is addmm, Gemma's scaled embedding is a table and a factor, a router is a product
and a choice. What they do before and after is nothing to us: δ of the product itself comes from
autograd.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ustat_grpo.lm.scores.calls import Call, Layer, Part, Rule
from ustat_grpo.lm.scores.rules import token_part, vector_part

Seen = Callable[[Layer, tuple[Any, dict[str, Any]], tuple[str, ...], Rule, Tensor], None]
"""Is told of a layer, what was read (and by name), its parameters, their rule, and the product."""

SCALING = ("scale_grad_by_freq", "sparse")
CASTS = frozenset({Tensor.to, Tensor.float, Tensor.type, Tensor.bfloat16, Tensor.half})
TURNED: tuple[Any, ...] = (Tensor.T, Tensor.mT)  # descriptors, which a mode sees by their getters
TURNS = frozenset({Tensor.t, Tensor.transpose, torch.t, *(each.__get__ for each in TURNED)})
PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})


class Uses(TorchFunctionMode):
    """Tells of every product with a matrix of the layer that runs.

    Other uses of a parameter are left to autograd's graph, in which they are seen: a product that
    is missed here is refused there.

    Args:
        seen: is told of every product.
    """

    def __init__(self, seen: Seen) -> None:
        """No layer runs."""
        super().__init__()
        self._seen = seen
        self.running: Layer | None = None
        # What a parameter is called, and whether it is turned; tensors are kept, so ids stay.
        self._known: dict[int, tuple[Tensor, str, bool]] = {}

    def begin(self, layer: Layer) -> None:
        """Look at what a layer does, until it ends."""
        self.running = layer
        self._known = {id(p): (p, name, False) for name, p in layer.trained.items()}

    def end(self) -> None:
        """Look away, and let go of the tensors."""
        self.running, self._known = None, {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, and tell of it if it is a product with a known matrix."""
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if self.running is None:
            return output
        if function in CASTS or function in TURNS:
            self._follow(function, args, output)
        elif function is functional.linear:
            self._linear(*args, output=output, **kwargs)
        elif function is functional.embedding:
            names = ("input", "weight", "padding_idx", "max_norm", "norm_type", *SCALING)
            arguments = dict(zip(names, args, strict=False)) | kwargs
            self._embedding(*(arguments.get(name) for name in names), output=output)
        elif function is torch.addmm and len(args) == 3 and not kwargs:
            self._tell(args[1], args[2], args[0], output, by_columns=True)
        elif function in PRODUCTS and len(args) == 2 and not kwargs:
            self._tell(*args, None, output, by_columns=True)
        return output

    def _follow(self, function: Any, args: tuple[Any, ...], output: Any) -> None:
        known = self._known.get(id(args[0]))
        if known and (function in CASTS or known[0].dim() == 2):
            turned = known[2] != (function in TURNS)
            self._known[id(output)] = (output, known[1], turned)

    def _name(self, tensor: Any) -> tuple[str | None, bool]:
        _, name, turned = self._known.get(id(tensor), (None, None, False))
        return name, turned

    def _linear(self, read: Tensor, weight: Tensor, bias: Any = None, *, output: Tensor) -> None:
        self._tell(read, weight, bias, output, by_columns=False)

    def _tell(
        self, read: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, *, by_columns: bool
    ) -> None:
        """Tell of a product, unless it has an operand that is trained and not known.

        That one's share would be lost; what is not told of here is found in the graph.
        """
        name, turned = self._name(weight)
        of_bias = self._name(bias)[0]
        for operand, known in ((weight, name), (bias, of_bias)):
            if operand is not None and operand.requires_grad and not known:
                return
        if bias is not None and bias.shape != output.shape[-1:]:
            return
        names = tuple(each for each in (name, of_bias) if each)
        if names and self.running:
            how = {"weight": name, "bias": of_bias, "by_columns": by_columns != turned}
            self._seen(self.running, ((read,), {}), names, partial(_product_parts, **how), output)

    def _embedding(
        self, tokens: Tensor, weight: Tensor, padding: int | None, *other: Any, output: Tensor
    ) -> None:
        """Tell of a table; `other` is largest norm, its kind, scaling by frequency, sparsity."""
        name, turned = self._name(weight)
        if name and self.running and not (turned or any(other[2:3])):
            padding = None if padding is None else padding % len(weight)
            rule = partial(_table_parts, weight=name, padding=padding)
            self._seen(self.running, ((tokens,), {}), (name,), rule, output)


def _product_parts(
    call: Call, delta: Tensor, *, weight: str | None, bias: str | None, by_columns: bool
) -> Any:
    """Yield the parts of y = W h + b, or by columns of y = hᵀ W + b."""
    delta = call.vectors(delta)
    if weight:
        read = call.vectors(call.inputs[0])
        yield weight, Part(read, delta) if by_columns else Part(delta, read)
    if bias:
        yield bias, vector_part(delta)


def _table_parts(call: Call, delta: Tensor, *, weight: str, padding: int | None) -> Any:
    """Yield the part of a table whose rows are looked up."""
    yield weight, token_part(call, call.inputs[0], delta, padding)
