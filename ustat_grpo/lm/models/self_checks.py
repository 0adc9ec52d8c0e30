"""Does a model give the same logits however it is made to read a text?

We sample with a cache, from prompts that are padded on the left. A model whose places, masks or
cache do not allow that answers without an error, and every log-probability is another one. So a
model is asked a few tokens when it is taken up: whole, without its end, padded, and step by step.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ustat_grpo.lm.language_model import LanguageModel, Prompts

LENGTHS = (5, 2)
"""Tokens of the two prompts that a model is asked; the shorter one is padded."""

STEPS = (1, 2)
"""Tokens that are read at a time with the cache."""

FAR = 100.0
"""Tokens that are so many nats less likely than others count as equally impossible."""

Whole = Callable[[Int[Tensor, " t"]], Float[Tensor, "t v"]]
"""Returns the logits of one sequence in the plainest way: no padding, no cache, no places given."""


@dataclass(frozen=True)
class Inconsistency:
    """What a model should give but does not.

    Args:
        requirement: in words, such as "a token logits that no later token changes".
        deviation: by how much it is off; see `deviation`.
        rounding: how much rounding explains.
    """

    requirement: str
    deviation: float
    rounding: float


@torch.no_grad()
def inconsistency(
    model: LanguageModel, whole: Whole, modules: nn.Module, *, vocabulary_size: int
) -> Inconsistency | None:
    """Return how a model contradicts itself, or None if it does not.

    Asked are that logits do not depend on what comes later, on padding, and on the cache. It costs
    nine calls that read 47 tokens in all. What a model does only beyond a window or a length that
    is longer than these texts of 8 and 5 tokens is not seen.

    Args:
        model: what will be used; where its context is too short for the cache, that is not asked.
        whole: the same model in the plainest way.
        modules: what both of them run, to learn what rounding does.
        vocabulary_size: tokens to choose from.
    """
    device = next(iter(model.parameters())).device
    more = sum(STEPS) if model.context_length >= max(LENGTHS) + sum(STEPS) else 0
    lengths = [min(length, model.context_length) for length in LENGTHS]
    # Neighbours differ, and no row repeats the other.
    texts = [
        ((7 * row + 3 * torch.arange(length + more) + 1) % vocabulary_size).to(device)
        for row, length in enumerate(lengths)
    ]
    right = [whole(text) for text in texts]
    near = max(_half_the_digits(modules), 2 * _shaken(modules, whole, texts, right))
    for what, logits, wanted in _readings(model, whole, texts, right, lengths):
        off = deviation(logits, wanted)
        if not off <= near:
            return Inconsistency(what, off, near)
    return None


def _half_the_digits(modules: nn.Module) -> float:
    """Return √ε of the coarsest number format of parameters; 3.5e-4 for float32.

    ε is 2⁻²³ for float32, 2⁻¹⁰ for float16 and for float32 that a GPU rounds to TF32, and 2⁻⁷ for
    bfloat16. A token at a wrong place changes the first digit.
    """
    parameters = list(modules.parameters())
    kinds = {p.dtype for p in parameters if p.is_floating_point()} or {torch.float32}
    epsilon = max(torch.finfo(kind).eps for kind in kinds)
    if parameters[0].device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        epsilon = max(epsilon, 2.0**-10)
    return epsilon**0.5


def _shaken(modules: nn.Module, whole: Whole, texts: list[Tensor], right: list[Tensor]) -> float:
    """Return by how much logits are off if what every small module returns is off by up to ε.

    In half precision a deep model loses more than half of its digits, and a mixture of experts may
    choose others.
    """

    def shake(module: nn.Module, args: Any, output: Any) -> Any:
        if not (isinstance(output, Tensor) and output.is_floating_point()):
            return output
        ripple = torch.arange(output.numel(), device=output.device).view_as(output)
        ripple = torch.finfo(output.dtype).eps * (2.4 * ripple).cos()
        return (output + output * ripple).to(output.dtype)

    with ExitStack() as stack:
        for module in modules.modules():
            if next(module.children(), None) is None:
                stack.enter_context(module.register_forward_hook(shake))
        shaken = [whole(text) for text in texts]
    return max(deviation(*each) for each in zip(shaken, right, strict=True))


def deviation(logits: Float[Tensor, "t v"], wanted: Float[Tensor, "t v"]) -> float:
    """Return the largest ‖log p̂_t − log p_t‖/‖log p_t − mean‖ of the tokens t; NaN if one is.

    A model that finds all tokens equally likely has no spread; it must say so exactly.
    """
    one, other = (each.double().log_softmax(-1).clamp(min=-FAR) for each in (logits, wanted))
    spread = (other - other.mean(dim=-1, keepdim=True)).norm(dim=-1)
    off = (one - other).norm(dim=-1) / spread.clamp(min=torch.finfo(torch.float32).eps)
    return float(off.max())


def _readings(
    model: LanguageModel, whole: Whole, texts: list[Tensor], right: list[Tensor], lengths: list[int]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield what is asked of a model, its logits, and those of the whole texts."""
    before = whole(texts[0][: lengths[0] - 1])
    yield "a token logits that no later token changes", before, right[0][: len(before)]
    prompts = Prompts.of(
        [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)], pad_token=0
    ).to(texts[0].device)
    logits, cache = model(prompts.tokens, prompts.real)
    yield "a prompt the logits of the library's plainest call", logits[0], right[0][: lengths[0]]
    what = "a prompt that is padded on the left the logits that it has alone"
    yield what, logits[1, -lengths[1] :], right[1][: lengths[1]]
    rows = torch.tensor([1, 0], device=prompts.tokens.device)  # sampling reorders them, too
    cache, real, start = model.select(cache, rows), prompts.real[rows], 0
    what = "tokens that are read with a cache the logits that the whole text gives them"
    for step in STEPS if len(texts[0]) > lengths[0] else ():
        places = [slice(lengths[row] + start, lengths[row] + start + step) for row in (1, 0)]
        new = torch.stack([texts[row][place] for row, place in zip((1, 0), places, strict=True)])
        real = torch.cat([real, real.new_ones(2, step)], dim=1)
        logits, cache = model(new, real, cache)
        for read, row, place in zip(logits, (1, 0), places, strict=True):
            yield what, read, right[row][place]
        start += step
