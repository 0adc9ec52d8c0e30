"""How the parameters of a layer get their parts of a score, by the layer's kind."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ustat_grpo.lm.scores.calls import WAY_OUT, Call, Part, Rule

EXPERTS = frozenset({"has_gate", "has_bias", "is_transposed", "has_post_expert_norm"})
"""What `transformers` notes of a mixture of experts whose weights are one tensor each."""

WEIGHTS_OF_EXPERTS = ("gate_up_proj", "up_proj", "down_proj")
"""Gate and what it gates may be one matrix, or there is no gate."""


def rule_of(module: Any, trained: dict[str, nn.Parameter]) -> Rule | None:
    """Return how this module's parameters get their parts, or None if that is not known.

    A module of no known kind with a matrix among its parameters is looked into: see `score_uses`.
    """
    forward = vars(module).get("forward", type(module).forward)  # of an object, or its class
    if forward is nn.Linear.forward:
        return linear_parts if trained.keys() <= {"weight", "bias"} else None
    if forward is nn.Embedding.forward:
        return None if module.scale_grad_by_freq else embedding_parts
    if vars(module).keys() >= EXPERTS:
        known = trained.keys() <= {*WEIGHTS_OF_EXPERTS, *(f"{w}_bias" for w in WEIGHTS_OF_EXPERTS)}
        return expert_parts if known and not module.has_post_expert_norm else None
    if next(module.children(), None) is not None:
        return None
    largest = max(parameter.dim() for parameter in trained.values())
    return {1: elementwise_parts, 2: used_parts}.get(largest)


def vector_part(vector: Tensor) -> Part:
    """Return the part of a parameter that is a vector, given its gradient's summands over t."""
    total = vector.sum(dim=1, keepdim=True)
    return Part(total, total.new_ones(len(total), 1, 1))


def linear_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Yield those of y = W h + b."""
    if "weight" in call.names:
        yield "weight", Part(call.vectors(delta), call.vectors(call.inputs[0]))
    if "bias" in call.names:
        yield "bias", vector_part(call.vectors(delta))


def embedding_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Yield those of a table: a token's row gets its δ, unless it is the module's padding token."""
    padding: Any = call.layer.module.padding_idx
    yield "weight", token_part(call, call.inputs[0], delta, padding)


def token_part(call: Call, tokens: Tensor, delta: Tensor, padding: int | None) -> Part:
    """Return the part of a table whose rows are looked up."""
    tokens, delta = tokens.reshape(call.num_rows, -1).long(), call.vectors(delta)
    if padding is not None:
        delta = delta.masked_fill((tokens == padding)[..., None], 0.0)
    return Part(tokens, delta)


def used_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Stand for the rules of single uses, which are found when a module runs."""
    raise AssertionError(f"{call.layer.name} is looked into, not seen from outside")


def elementwise_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Each parameter w acts as y = a(h) ⊙ w + c(h), so its gradient is Σ_t δ_t ⊙ a(h_t)."""
    for name in call.names:
        parameter = call.layer.trained[name]
        at_zero = _output(call, {name: torch.zeros_like(parameter)})
        slope = _output(call, {name: torch.ones_like(parameter)}) - at_zero
        yield name, vector_part(call.vectors(slope.mul_(delta)))


def expert_parts(call: Call, delta: Tensor) -> Iterator[tuple[str, Part]]:
    """Yield those of a mixture of experts: expert e adds p_te D_e a(U_e h_t) to token t's output.

    What the experts read and return is worked out again, expert by expert.
    """
    noted: dict[str, Tensor] = {}
    numbers = _experts(call, delta, noted)[1]
    numbers = numbers.reshape(call.num_rows, -1)
    up = "gate_up_proj" if call.layer.module.has_gate else "up_proj"
    for name, read in ((up, "read"), ("down_proj", "acted")):
        slope, read = call.vectors(noted[f"{name} slope"]), call.vectors(noted[read])
        if name in call.names:
            pair = (read, slope) if call.layer.module.is_transposed else (slope, read)
            yield name, Part(*pair, numbers)
        if f"{name}_bias" in call.names:
            yield f"{name}_bias", Part(numbers, slope)


def _experts(call: Call, delta: Tensor | None, noted: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a mixture's output, and which expert each of its summands is of.

    Note in `noted` what the experts' two matrices read, and with δ the slopes of what they return;
    all of shape (t k, width) with k experts a token.
    """
    module: Any = call.layer.module
    hidden, chosen, shares = call.inputs[:3]
    most, numbers = chosen.shape[-1], chosen.reshape(-1)
    up = "gate_up_proj" if module.has_gate else "up_proj"
    read = hidden.repeat_interleave(most, dim=0)
    weighed = shares.reshape(-1, 1)
    returned = torch.zeros_like(read)
    for number in numbers.unique().tolist():
        here = (numbers == number).nonzero().squeeze(-1)
        with torch.enable_grad():
            lifted = _times(module, up, number, read[here].detach()).requires_grad_()
            acted = (module._apply_gate if module.has_gate else module.act_fn)(lifted)
        returned[here] = (_times(module, "down_proj", number, acted.detach())).to(returned)
        if delta is None:
            continue
        slope = delta[here // most] * weighed[here]
        back = module.down_proj[number]
        below = slope.to(back) @ (back.mT if module.is_transposed else back)
        (above,) = torch.autograd.grad(acted, lifted, below)
        pieces = {"acted": acted.detach(), f"{up} slope": above, "down_proj slope": slope}
        for name, piece in pieces.items():
            whole = noted.setdefault(name, piece.new_zeros(len(read), piece.shape[-1]))
            whole[here] = piece
    noted["read"] = read
    output = (returned * weighed).unflatten(0, (-1, most)).sum(dim=1)
    return output.to(hidden.dtype), numbers


def _times(module: Any, name: str, number: int, read: Tensor) -> Tensor:
    """Return what one expert's matrix makes of its input."""
    matrix, bias = getattr(module, name)[number].detach(), getattr(module, f"{name}_bias", None)
    result = read @ (matrix if module.is_transposed else matrix.mT)
    return result if bias is None else result + bias[number].detach()


class _WithoutHooks(nn.Sequential):
    """Computes what a module does before hooks of the user change it."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self[0].forward(*args, **kwargs)  # type: ignore[operator]


@torch.no_grad()
def _output(call: Call, values: dict[str, Tensor]) -> Tensor:
    """Return a layer's output on what it read before, with other values of some parameters."""
    layer = _WithoutHooks(call.layer.module)
    others = {f"0.{name}": value for name, value in values.items()}
    return functional_call(layer, others, call.args, call.kwargs)


@torch.no_grad()
def require_rule(call: Call) -> None:
    """Raise unless a layer does what its rule takes it to do.

    Raises:
        ValueError: if a vector does not act as y = y|₀ + w ⊙ (y|₁ − y|₀) at a w with nothing
            special about it, or experts' weights not as in `expert_parts`.
    """
    if call.rule is elementwise_parts:
        _require_elementwise(call)
    if call.rule is expert_parts:
        _require_experts(call)


def _require_elementwise(call: Call) -> None:
    for name in call.names:
        parameter = call.layer.trained[name]
        value = torch.linspace(-1.3, 1.7, len(parameter)).cos().to(parameter)
        output = _output(call, {name: value})
        at_zero = _output(call, {name: torch.zeros_like(parameter)})
        slope = _output(call, {name: torch.ones_like(parameter)}) - at_zero
        if output.shape[-1] != len(value) or not _near(output, at_zero + value * slope):
            raise ValueError(
                "parameters of other modules than nn.Linear and nn.Embedding must act as "
                f"y = a(h) ⊙ w + c(h), got {call.layer.name}.{name} of "
                f"{type(call.layer.module).__name__}; {WAY_OUT}"
            )


def _require_experts(call: Call) -> None:
    if len(call.inputs) == 3 and call.inputs[0].dim() == 2:
        module: Any = call.layer.module
        inside = bool((call.inputs[1] < module.num_experts).all())  # others are elsewhere
        if inside and _near(_output(call, {}), _experts(call, None, {})[0]):
            return
    raise ValueError(
        "experts must return the sum of p · D a(U h) over the chosen ones, got "
        f"{call.layer.name} of {type(call.layer.module).__name__}; {WAY_OUT}"
    )


def _near(output: Tensor, wanted: Tensor) -> bool:
    near = torch.finfo(output.dtype).eps ** 0.5
    return torch.allclose(output, wanted.to(output.dtype), rtol=near, atol=near)
