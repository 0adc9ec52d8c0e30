"""Groups of outputs sampled from a language model."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.checks import integer, real
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts


def require_context(model: LanguageModel, prompts: Prompts, length: int, name: str) -> None:
    """Raise unless prompts and `length` more tokens fit the model's context."""
    room = model.context_length - prompts.tokens.shape[1]
    if length > room:
        raise ValueError(
            f"{name} must be at most {room}: the model's context holds {model.context_length} "
            f"tokens and the longest prompt {prompts.tokens.shape[1]}, got {length}"
        )


@torch.no_grad()
def sample_groups(
    model: LanguageModel,
    prompts: Prompts,
    group_size: int,
    *,
    max_tokens: int,
    rng: torch.Generator,
    temperature: float = 1.0,
) -> Rollouts:
    """Sample G outputs to each prompt, token by token from the whole distribution.

    Outputs that agree so far are one row of the computation: the model is asked once for each
    distinct beginning, however large the group. An output that has no end token after `max_tokens`
    stays as it is. Token t of output (b, i) is drawn by the uniform number (b, i, t) of one draw
    from `rng`, so the same state gives the same outputs on every device.

    Args:
        model: the policy; its dropout, if any, is for the caller to switch off.
        prompts: B prompts, on the model's device.
        group_size: G, outputs to each prompt.
        max_tokens: the most tokens of an output, the end token included.
        rng: source of randomness.
        temperature: divides the logits; log-probabilities are those at this temperature.

    Raises:
        ValueError: if an argument is out of range, or outputs may outgrow the model's context.
    """
    batch_size, size = len(prompts), integer("group_size", group_size)
    length = integer("max_tokens", max_tokens)
    real("temperature", temperature, above=0.0)
    require_context(model, prompts, length, "max_tokens")
    device = prompts.tokens.device
    numbers = torch.rand(
        batch_size, size, length, generator=rng, dtype=torch.float64, device=rng.device
    ).to(device)
    outputs = torch.full((batch_size * size, length), model.end_token, device=device)
    mask = torch.zeros_like(outputs, dtype=torch.bool)
    log_probs = torch.zeros(outputs.shape, device=device)
    logits, cache = model(prompts.tokens, prompts.real)
    logits, seen = logits[:, -1], prompts.real
    going = torch.arange(batch_size * size, device=device)  # outputs that have not ended
    row = going // size  # the row of the computation that each of them is on
    for place in range(length):
        step = torch.log_softmax(logits / temperature, dim=-1)
        drawn = _draw(step, row, numbers.view(-1, length)[going, place])
        outputs[going, place] = drawn
        mask[going, place] = True
        if place == 0:
            log_probs = log_probs.to(step.dtype)
        log_probs[going, place] = step[row, drawn]
        on = drawn != model.end_token
        going = going[on]
        if place == length - 1 or not len(going):
            break
        vocabulary = step.shape[-1]
        distinct, row = torch.unique(row[on] * vocabulary + drawn[on], return_inverse=True)
        parent, tokens = distinct // vocabulary, distinct % vocabulary
        seen = torch.cat([seen[parent], seen.new_ones(len(parent), 1)], dim=-1)
        logits, cache = model(tokens[:, None], seen, model.select(cache, parent))
        logits = logits[:, -1]
    shape = (batch_size, size, length)
    return Rollouts(prompts, outputs.view(shape), mask.view(shape), log_probs.view(shape))


def _draw(
    log_probs: Float[Tensor, "r v"], row: Int[Tensor, " n"], numbers: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Draw a token each by inversion of its row's distribution function."""
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    # Scaled by the total, so that rounding leaves no number beyond the last token.
    return torch.searchsorted(
        cumulative[row], (numbers * cumulative[row, -1])[:, None], right=True
    ).squeeze(-1)
