"""Groups of outputs sampled from a language model."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ustat_grpo.inputs.checks import integer
from ustat_grpo.inputs.quoting import quoted
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts


def require_context(model: LanguageModel, prompts: Prompts, length: int, name: str) -> None:
    """Raise unless prompts and `length` more tokens fit the model's context."""
    room = model.context_length - prompts.tokens.shape[1]
    if length > room:
        reason = getattr(model, "context_reason", "")  # of a model that has more than we can use
        raise ValueError(
            f"{name} must be at most {room}: the model's context holds {model.context_length} "
            f"tokens{reason} and the longest prompt {prompts.tokens.shape[1]}, got {length}"
        )


def sample_groups(
    model: LanguageModel,
    prompts: Prompts,
    group_size: int,
    *,
    max_tokens: int,
    rng: torch.Generator,
) -> Rollouts:
    """Sample G outputs to each prompt, token by token from the whole distribution.

    Outputs that agree so far are one row of the computation: the model is asked once for each
    distinct beginning, however large the group. An output that has not ended after `max_tokens`
    stays as it is. Token t of output (b, i) is drawn by the uniform number (b, i, t) of one draw
    from `rng`, so the same state gives the same outputs on every device.

    Args:
        model: the policy; its dropout, if any, is for the caller to switch off.
        prompts: B prompts, on the model's device.
        group_size: G, outputs to each prompt.
        max_tokens: the most tokens of an output, the end token included.
        rng: source of randomness.

    Raises:
        ValueError: if an argument is out of range, or outputs may outgrow the model's context.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import CharacterTokenizer, sample_groups, shipped_policy
        >>> policy, tokenizer = shipped_policy("advanced"), CharacterTokenizer()
        >>> rng = torch.Generator().manual_seed(0)
        >>> prompts = tokenizer.prompts(["7+15-9="])
        >>> rollouts = sample_groups(policy, prompts, 16, max_tokens=6, rng=rng)
        >>> answers = [tokenizer.decode(tokens) for tokens in rollouts.outputs[0].tolist()]
        >>> len(answers), max(answers, key=answers.count)
        (16, '13')
    """
    batch_size, size = len(prompts), integer("group_size", group_size)
    numbers = uniforms(batch_size * size, max_tokens, rng=rng)
    prompt_of = torch.arange(batch_size).repeat_interleave(size)
    drawn = sample_rows(model, prompts, prompt_of, numbers)
    outputs, mask, log_probs = (each.view(batch_size, size, -1) for each in drawn)
    return Rollouts(prompts, outputs, mask, log_probs)


def uniforms(num_outputs: int, max_tokens: int, *, rng: torch.Generator) -> Float[Tensor, "n L"]:
    """Return the uniform numbers that draw some outputs, token by token.

    Raises:
        ValueError: if a number is not positive.
        TypeError: if `rng` is no torch.Generator.
    """
    require_torch_generator(rng)
    shape = (integer("num_outputs", num_outputs), integer("max_tokens", max_tokens))
    return torch.rand(shape, generator=rng, dtype=torch.float64, device=rng.device)


def require_torch_generator(rng: object) -> None:
    """Raise TypeError unless `rng` is a torch.Generator: NumPy's, seeds and None are refused."""
    if not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator, got {quoted(rng)}")


@torch.no_grad()
def sample_rows(
    model: LanguageModel,
    prompts: Prompts,
    prompt_of: Int[Tensor, " n"],
    numbers: Float[Tensor, "n L"],
) -> tuple[Int[Tensor, "n L"], Bool[Tensor, "n L"], Float[Tensor, "n L"]]:
    """Sample outputs, any number to each prompt; return tokens, mask and log-probabilities.

    Args:
        model: the policy.
        prompts: B prompts, on the model's device.
        prompt_of: which prompt each output answers.
        numbers: from `uniforms`.

    Raises:
        ValueError: if outputs may outgrow the model's context, or logits are NaN.
    """
    count, length = numbers.shape
    require_context(model, prompts, length, "max_tokens")
    device = prompts.tokens.device
    numbers = numbers.to(device)
    row = prompt_of.to(device)  # of the computation, for each output
    outputs = torch.full((count, length), model.end_token, device=device)
    mask = torch.zeros_like(outputs, dtype=torch.bool)
    logits, cache = model(prompts.tokens, prompts.real, last=1)
    log_probs = torch.zeros(outputs.shape, device=device, dtype=logits.dtype)
    logits, seen = logits[:, -1], prompts.real
    going = torch.arange(count, device=device)  # outputs that have not ended
    for place in range(length):
        step = torch.log_softmax(logits, dim=-1)
        drawn = _draw(step, row, numbers[going, place])
        outputs[going, place] = drawn
        mask[going, place] = True
        log_probs[going, place] = step[row, drawn]
        on = ~model.ended(outputs[going, : place + 1])
        going = going[on]
        if place == length - 1 or not len(going):
            break
        vocabulary = step.shape[-1]
        distinct, row = torch.unique(row[on] * vocabulary + drawn[on], return_inverse=True)
        parent, tokens = distinct // vocabulary, distinct % vocabulary
        seen = torch.cat([seen[parent], seen.new_ones(len(parent), 1)], dim=-1)
        logits, cache = model(tokens[:, None], seen, model.select(cache, parent))
        logits = logits[:, -1]
    return outputs, mask, log_probs


def _draw(
    log_probs: Float[Tensor, "r v"], row: Int[Tensor, " n"], numbers: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Draw a token each by inversion of its row's distribution function.

    Bisection finds the first token at which that function exceeds the number. It looks up a few of
    the row's values only: a vocabulary is too large for a copy of the row to each output.
    """
    cumulative = log_probs.to(torch.float64, copy=True).exp_().cumsum_(dim=-1)
    if not bool(cumulative[:, -1].isfinite().all()):
        raise ValueError("logits of the model must be finite or -inf, got NaN or +inf")
    # Scaled by the total, so that rounding leaves no number beyond the last token.
    numbers = numbers * cumulative[row, -1]
    highest = cumulative.shape[1] - 1
    low, high = torch.zeros_like(row), torch.full_like(row, highest)
    for _ in range(highest.bit_length()):
        middle = (low + high) // 2
        beyond = cumulative[row, middle] > numbers
        low, high = low.where(beyond, middle + 1), high.where(~beyond, middle)
    return low
