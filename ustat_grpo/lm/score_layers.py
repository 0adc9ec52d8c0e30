"""Scores of single outputs, layer by layer, from one forward and one backward pass of many rows.

A layer y_t = W h_t that reads every row by itself gives row u the gradient Σ_t δ_ut h_utᵀ, where
δ_ut is the derivative of log π(y_u∣x_u) by the layer's output. Inputs are seen on the way forward
and δ on the way back; no parameter's own gradient is computed.

Reference: Goodfellow 2015, "Efficient per-example gradient computations", arXiv 1510.01799.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.scoring import Answers, log_probs

WAY_OUT = "probe_norms works for any model"


@dataclass(frozen=True, eq=False)
class Part:
    """Summands of one parameter's gradient, a p×q matrix: row u has Σ_t left_ut right_utᵀ.

    Args:
        left: shape (n, t, p); or integers, shape (n, t), each for the unit vector of this number.
        right: shape (n, t, q).
    """

    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """A module, its own trained parameters by their names in it, and how they get their parts."""

    name: str
    module: nn.Module
    trained: dict[str, nn.Parameter]
    rule: "Rule"


@dataclass(eq=False)
class Call:
    """One use of a layer, and what it read."""

    layer: Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        """Note the state that the inputs are in."""
        self.versions = [x._version for x in self.inputs]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that it read, the main one first."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)]


Rule = Callable[[Call, Tensor], Iterator[tuple[str, Part]]]
"""From a layer's call and its δ, shape (n, …, width), to the parts of its parameters, by name."""


def trained_layers(model: LanguageModel) -> tuple[Layer, ...]:
    """Return the layers that own the trained parameters, each module once.

    Raises:
        TypeError: if the model is no module.
        ValueError: if no rule is known for the module that a trained parameter belongs to.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; {WAY_OUT}")
    layers, refused = [], []
    for name, module in model.named_modules():
        own = module.named_parameters(recurse=False)
        trained = {key: value for key, value in own if value.requires_grad}
        if trained and (rule := _rule(module, trained)):
            layers.append(Layer(name, module, trained, rule))
        else:
            refused += [f"{name}.{key} of {type(module).__name__}".lstrip(".") for key in trained]
    if refused:
        shown = refused if len(refused) < 6 else [*refused[:4], f"{len(refused) - 4} more"]
        raise ValueError(
            "trained parameters must belong to nn.Linear, nn.Embedding or a module like nn.RMSNorm "
            f"or nn.LayerNorm, got {', '.join(shown)}; {WAY_OUT}"
        )
    return tuple(layers)


def require_separable(model: LanguageModel, answers: Answers, layers: tuple[Layer, ...]) -> None:
    """Raise unless the parts that layers see are the whole gradient; costs one forward of a row.

    What has one row here and n rows in `visit_parts` has the rows as its first axis, whatever n is.

    Raises:
        ValueError: if a layer is not what its rule takes it for, its output does not have the rows
            as its first axis, or a parameter is used elsewhere, too.
        RuntimeError: if a layer runs without derivatives.
    """
    objective, outputs = _forward(model, answers[:1], layers, lambda call, delta: None)
    names = {id(p): f"{layer.name}.{key}" for layer in layers for key, p in layer.trained.items()}
    leaves = (id(leaf) for leaf in _leaves(objective, outputs))
    elsewhere = {names.get(leaf, "a tensor that is no parameter") for leaf in leaves}
    if elsewhere:
        raise ValueError(
            "trained parameters must be used by their own modules only, whose outputs nothing "
            f"changes in place, got another use of {', '.join(sorted(elsewhere))}; {WAY_OUT}"
        )
    for call in outputs:
        if call.layer.rule is _elementwise_parts:
            _require_elementwise(call)


def visit_parts(
    model: LanguageModel,
    answers: Answers,
    layers: tuple[Layer, ...],
    visit: Callable[[nn.Parameter, list[Part]], None],
) -> None:
    """Call `visit` once a parameter, with all parts of ∇ log π(y_u∣x_u) for the rows u.

    This happens on the way back, as soon as a parameter's last part is there, and nothing is kept;
    only what several calls share (tied weights) waits for all of them.

    Raises:
        ValueError: if a layer's output does not have the rows as its first axis.
        RuntimeError: if a layer runs without derivatives, as reentrant gradient checkpointing lets
            it, or its input was changed in place.
    """
    waiting: defaultdict[nn.Parameter, list[Part]] = defaultdict(list)
    expected: Counter[nn.Parameter] = Counter()

    @torch.no_grad()
    def arrived(call: Call, delta: Tensor) -> None:
        for name, part in _parts(call, delta):
            parameter = call.layer.trained[name]
            waiting[parameter].append(part)
            if len(waiting[parameter]) == expected[parameter]:
                visit(parameter, waiting.pop(parameter))
        call.args, call.kwargs = (), {}  # frees the memory

    objective, outputs = _forward(model, answers, layers, arrived)
    expected.update(p for call in outputs for p in call.layer.trained.values())
    # Derivatives by what depends on no other layer: on the way there every δ appears.
    first = [y for call, y in outputs.items() if not any(x.requires_grad for x in call.inputs)]
    if first:
        torch.autograd.grad(objective, first, allow_unused=True)
    with torch.no_grad():
        for parameter, parts in waiting.items():  # some of its calls do not reach the objective
            visit(parameter, parts)


def _forward(
    model: LanguageModel,
    answers: Answers,
    layers: tuple[Layer, ...],
    arrived: Callable[[Call, Tensor], None],
) -> tuple[Tensor, dict[Call, GradientEdge]]:
    """Return Σ_u log π(y_u∣x_u) and each call's output; `arrived` will be told of each δ."""
    outputs: dict[Call, GradientEdge] = {}  # apart from calls, which the graph itself refers to

    def ran(layer: Layer, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not (isinstance(output, Tensor) and output.requires_grad):
            raise RuntimeError(
                f"layers must run with derivatives, got {layer.name!r} without; reentrant gradient "
                f"checkpointing does that: switch it off or pass use_reentrant=False; {WAY_OUT}"
            )
        if output.dim() < 2 or len(output) != len(answers):
            raise ValueError(
                "layers must be called with the rows as the first axis, got an output of shape "
                f"{tuple(output.shape)} from {layer.name!r} for {len(answers)} rows; {WAY_OUT}"
            )
        call = Call(layer, args, kwargs)
        outputs[call] = get_gradient_edge(output)
        output.register_hook(partial(arrived, call))

    with torch.enable_grad(), ExitStack() as stack:
        for layer in layers:  # first of all hooks, to see what the module itself returned
            add = partial(layer.module.register_forward_hook, prepend=True, with_kwargs=True)
            stack.enter_context(add(partial(ran, layer)))
        return log_probs(model, answers, share_prompts=False).sum(), outputs


def _leaves(objective: Tensor, outputs: dict[Call, GradientEdge]) -> Iterator[Tensor]:
    """Yield the leaves of the graph that are reached otherwise than through a layer's call."""
    through: dict[tuple[Any, int], list[Tensor]] = {
        (output.node, output.output_nr): [x for x in call.inputs if x.requires_grad]
        for call, output in outputs.items()
    }
    seen: set[tuple[Any, int]] = {(None, 0)}  # what needs no derivative
    ahead: list[tuple[Any, int]] = [(objective.grad_fn, 0)]
    while ahead:
        if (place := ahead.pop()) in seen:
            continue
        seen.add(place)
        if place in through:
            ahead += [(e.node, e.output_nr) for e in map(get_gradient_edge, through[place])]
        elif hasattr(place[0], "variable"):
            yield place[0].variable
        else:
            ahead += place[0].next_functions


def _parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Yield the parts by their parameters' names; half precision becomes single, to be summed."""
    if [x._version for x in call.inputs] != call.versions:
        raise RuntimeError(
            f"layers' inputs must not be changed in place, got that of {call.layer.name!r}"
        )
    for name, part in call.layer.rule(call, delta):
        kind = torch.promote_types(call.layer.trained[name].dtype, torch.float32)
        left = part.left.to(kind) if part.left.is_floating_point() else part.left
        yield name, Part(left, part.right.to(kind))


def _rule(module: Any, trained: dict[str, nn.Parameter]) -> Rule | None:
    """Return how this module's parameters get their parts, or None if that is not known."""
    forward = vars(module).get("forward", type(module).forward)  # of an object, or its class
    if forward is nn.Linear.forward and trained.keys() <= {"weight", "bias"}:
        return _linear_parts
    if forward is nn.Embedding.forward and not module.scale_grad_by_freq:
        return _embedding_parts
    leaf = next(module.children(), None) is None
    return _elementwise_parts if leaf and all(p.dim() == 1 for p in trained.values()) else None


def _vectors(tensor: Tensor) -> Tensor:
    """Return a tensor of shape (n, …, width) as one of shape (n, t, width)."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _vector_part(vector: Tensor) -> Part:
    """Return the part of a parameter that is a vector, given its gradient's summands over t."""
    total = vector.sum(dim=1, keepdim=True)
    return Part(total, total.new_ones(len(total), 1, 1))


def _linear_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    if "weight" in call.layer.trained:
        yield "weight", Part(_vectors(delta), _vectors(call.inputs[0]))
    if "bias" in call.layer.trained:
        yield "bias", _vector_part(_vectors(delta))


def _embedding_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """A token's row gets its δ, unless it is the module's padding token."""
    tokens, delta = call.inputs[0].reshape(len(delta), -1).long(), _vectors(delta)
    padding: Any = call.layer.module.padding_idx
    if padding is not None:
        delta = delta.masked_fill((tokens == padding)[..., None], 0.0)
    yield "weight", Part(tokens, delta)


def _elementwise_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Each parameter w acts as y = a(h) ⊙ w + c(h), so its gradient is Σ_t δ_t ⊙ a(h_t)."""
    for name, parameter in call.layer.trained.items():
        at_zero = _output(call, name, torch.zeros_like(parameter))
        slope = _output(call, name, torch.ones_like(parameter)) - at_zero
        yield name, _vector_part(_vectors(slope.mul_(delta)))


class _WithoutHooks(nn.Sequential):
    """Computes what a module does before hooks of the user change it."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self[0].forward(*args, **kwargs)  # type: ignore[operator]


@torch.no_grad()
def _output(call: Call, name: str, value: Tensor) -> Tensor:
    """Return a layer's output on what it read before, with another value of one parameter."""
    layer = _WithoutHooks(call.layer.module)
    return functional_call(layer, {f"0.{name}": value}, call.args, call.kwargs)


def _require_elementwise(call: Call) -> None:
    """Raise unless y = y|₀ + w ⊙ (y|₁ − y|₀) at a w with nothing special about it."""
    for name, parameter in call.layer.trained.items():
        value = torch.linspace(-1.3, 1.7, len(parameter)).cos().to(parameter)
        found = _output(call, name, value)
        at_zero = _output(call, name, torch.zeros_like(parameter))
        slope = _output(call, name, torch.ones_like(parameter)) - at_zero
        near = torch.finfo(found.dtype).eps ** 0.5
        if found.shape[-1] != len(value) or not torch.allclose(
            found, at_zero + value * slope, rtol=near, atol=near
        ):
            raise ValueError(
                "parameters of other modules than nn.Linear and nn.Embedding must act as "
                f"y = a(h) ⊙ w + c(h), got {call.layer.name}.{name} of "
                f"{type(call.layer.module).__name__}; {WAY_OUT}"
            )
