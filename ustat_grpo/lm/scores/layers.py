"""Scores of single outputs, layer by layer, from one forward and one backward pass of many rows.

A layer y_t = W h_t that reads every row by itself gives row u the gradient Σ_t δ_ut h_utᵀ, where
δ_ut is the derivative of log π(y_u∣x_u) by the layer's output. Inputs are seen on the way forward
and δ on the way back; no parameter's own gradient is computed.

Linear layers, tables and norms of PyTorch's own are seen from outside, and so are mixtures of
experts (`score_rules`). Modules that multiply by a matrix in ways of their own are seen at the
product (`score_uses`).

Reference: Goodfellow 2015, "Efficient per-example gradient computations", arXiv 1510.01799.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.scores.calls import WAY_OUT, Call, Layer, Part, Rule, parts_of
from ustat_grpo.lm.scores.rules import require_rule, rule_of, used_parts
from ustat_grpo.lm.scores.sharing import prompt_kept_once
from ustat_grpo.lm.scores.uses import Seen, Uses
from ustat_grpo.lm.scoring import Answers, log_probs


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
        if trained and (rule := rule_of(module, trained)):
            layers.append(Layer(name, module, trained, rule))
        else:
            refused += [f"{name}.{key} of {type(module).__name__}".lstrip(".") for key in trained]
    if refused:
        shown = refused if len(refused) < 6 else [*refused[:4], f"{len(refused) - 4} more"]
        raise ValueError(
            "trained parameters must belong to nn.Linear, nn.Embedding, a module like nn.RMSNorm "
            "or nn.LayerNorm, one that multiplies by a matrix, or a mixture of experts, "
            f"got {', '.join(shown)}; {WAY_OUT}"
        )
    return tuple(layers)


def require_separable(model: LanguageModel, answers: Answers, layers: tuple[Layer, ...]) -> None:
    """Raise unless the parts that layers see are the whole gradient; costs one forward of a row.

    What has one row here and n rows in `visit_parts` has the rows as its first axis, whatever n is.
    Where rows and tokens may be one axis, a forward of two rows says whether the rows come first.

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
        require_rule(call)
    if len(answers) > 1 and any(call.shape[0] > 1 or len(call.shape) == 2 for call in outputs):
        _, both = _forward(model, answers[:2], layers, lambda call, delta: None)
        _require_rows_first(list(outputs), list(both))


def _require_rows_first(alone: list[Call], both: list[Call]) -> None:
    """Raise unless what a row reads alone is the first half of what two rows read."""
    for one, two in zip_longest(alone, both, fillvalue=alone[-1]):
        read, pair = one.inputs[0], two.inputs[0]
        near = torch.finfo(read.dtype if read.is_floating_point() else torch.float32).eps ** 0.5
        if two.num_rows == 2 and pair.shape == (2 * len(read), *read.shape[1:]):
            off = (pair[: len(read)] - read).double().norm()
            if off <= near * read.double().norm():
                continue
        raise ValueError(
            "layers must be called with the rows as the first axis, got an output of shape "
            f"{tuple(two.shape)} from {two.layer.name!r} for {two.num_rows} rows; {WAY_OUT}"
        )


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
        for name, part in parts_of(call, delta):
            parameter = call.layer.trained[name]
            waiting[parameter].append(part)
            if len(waiting[parameter]) == expected[parameter]:
                visit(parameter, waiting.pop(parameter))
        call.args, call.kwargs = (), {}  # frees the memory

    objective, outputs = _forward(model, answers, layers, arrived)
    expected.update(call.layer.trained[name] for call in outputs for name in call.names)
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
    rows, length = len(answers), answers.tokens.shape[1]
    sizes = {rows, rows * length, rows * (answers.prompts.tokens.shape[1] + length - 1)}

    def seen(layer: Layer, read: Any, names: tuple[str, ...], rule: Rule, output: Any) -> None:
        args, kwargs = read
        if not (isinstance(output, Tensor) and output.requires_grad):
            raise RuntimeError(
                f"layers must run with derivatives, got {layer.name!r} without; reentrant gradient "
                f"checkpointing does that: switch it off or pass use_reentrant=False; {WAY_OUT}"
            )
        if output.dim() < 2 or len(output) not in sizes:
            raise ValueError(
                "layers must be called with the rows as the first axis, got an output of shape "
                f"{tuple(output.shape)} from {layer.name!r} for {rows} rows; {WAY_OUT}"
            )
        call = Call(layer, args, kwargs, rows, output.shape, names, rule)
        outputs[call] = get_gradient_edge(output)
        output.register_hook(partial(arrived, call))

    with torch.enable_grad(), ExitStack() as stack:
        if any(layer.rule is used_parts for layer in layers):
            uses = stack.enter_context(Uses(seen))
        for layer in layers:
            if layer.rule is used_parts:
                _look_into(layer, uses, stack)
            else:
                _look_at(layer, seen, stack)
        stack.enter_context(prompt_kept_once(answers))
        return log_probs(model, answers, share_prompts=False).sum(), outputs


def _look_at(layer: Layer, seen: Seen, stack: ExitStack) -> None:
    """Tell what a layer reads and returns."""

    def ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen(layer, (args, kwargs), tuple(layer.trained), layer.rule, output)

    # First of all hooks, to see what the module itself returned.
    stack.enter_context(layer.module.register_forward_hook(ran, prepend=True, with_kwargs=True))


def _look_into(layer: Layer, uses: Uses, stack: ExitStack) -> None:
    """Tell where a layer begins and ends."""
    module = layer.module
    stack.enter_context(module.register_forward_pre_hook(lambda *_: uses.begin(layer)))
    stack.enter_context(module.register_forward_hook(lambda *_: uses.end(), prepend=True))


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
