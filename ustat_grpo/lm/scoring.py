"""Log-probabilities of given outputs, and the gradient of their weighted sum."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ustat_grpo.inputs.checks import integer, same_length
from ustat_grpo.lm.language_model import LanguageModel, Prompts, Rollouts
from ustat_grpo.lm.sampling import require_context

Gradient = tuple[Tensor, ...]
"""One tensor a trained parameter, in the order of `model.parameters()`."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs to prompts, any number to each, every one a row.

    Args:
        prompts: B prompts.
        prompt: which of them a row answers, shape (U,).
        tokens: shape (U, L), padded on the right.
        mask: which tokens belong to the output, shape (U, L).

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Answers, Prompts
        >>> prompts = Prompts.of([[2, 3], [4]], pad_token=0)
        >>> answers = Answers.of(prompts, [torch.tensor([5, 1]), torch.tensor([1])])  # one a prompt
        >>> answers.prompt.tolist(), answers.tokens.tolist(), answers.mask.tolist()
        ([0, 1], [[5, 1], [1, 0]], [[True, True], [True, False]])
    """

    prompts: Prompts
    prompt: Int[Tensor, " U"]
    tokens: Int[Tensor, "U L"]
    mask: Bool[Tensor, "U L"]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return some of the rows, by a slice or an index tensor, with the prompts they answer."""
        unlike, prompt = torch.unique(self.prompt[rows], return_inverse=True)
        return type(self)(self.prompts[unlike], prompt, self.tokens[rows], self.mask[rows])

    @classmethod
    def of(cls, prompts: Prompts, outputs: list[Tensor], pad_token: int = 0) -> Self:
        """Return one given output a prompt, such as the right answer.

        Raises:
            ValueError: if there are not as many outputs as prompts, or none.
        """
        same_length("rows", {"prompts": len(prompts), "outputs": len(outputs)})
        if not outputs:
            raise ValueError("outputs must hold at least one, got none")
        length = max(len(output) for output in outputs)
        tokens = torch.full((len(outputs), length), pad_token)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, output in enumerate(outputs):
            tokens[row, : len(output)] = output
            mask[row, : len(output)] = True
        device = prompts.tokens.device
        rows = torch.arange(len(outputs), device=device)
        return cls(prompts, rows, tokens.to(device), mask.to(device))


Coefficients = Callable[[slice, Answers, Float[Tensor, "u l"]], Float[Tensor, "u #l"]]
"""Returns the coefficient of every token, or of every row, shape (u, 1).

It is given which rows these are, the rows without common padding, and their log-probabilities.
"""


def distinct(rollouts: Rollouts) -> tuple[Answers, Int[Tensor, "B G"]]:
    """Return each distinct output to each prompt once, and where it stands in the groups."""
    answers, place = merged(answers_of(rollouts))
    return answers, place.view(rollouts.outputs.shape[:2])


def answers_of(rollouts: Rollouts) -> Answers:
    """Return every output as a row, also those that are equal."""
    batch_size, size = rollouts.outputs.shape[:2]
    prompt = torch.arange(batch_size, device=rollouts.outputs.device).repeat_interleave(size)
    rows = (rollouts.outputs.flatten(0, 1), rollouts.mask.flatten(0, 1))
    return Answers(rollouts.prompts, prompt, *rows)


def require_weights(name: str, weights: Tensor, rollouts: Rollouts) -> None:
    """Raise unless there is a weight, or what `name` says, for each output of the groups."""
    groups = rollouts.outputs.shape[:2]
    if weights.shape != groups:
        raise ValueError(
            f"{name} must have the shape {tuple(groups)} of the groups, got {tuple(weights.shape)}"
        )


def merged(answers: Answers) -> tuple[Answers, Int[Tensor, " U"]]:
    """Return each distinct row once, ordered by prompt and tokens, and where the rows went.

    Raises:
        ValueError: if there is no row.
    """
    if not len(answers):
        raise ValueError("answers must hold at least one row, got none")
    tokens = answers.tokens.masked_fill(~answers.mask, -1)
    base = int(tokens.max()) + 2
    code, most = answers.prompt, len(answers.prompts)
    for column in tokens.unbind(dim=1):
        if most * base > torch.iinfo(torch.int64).max:  # ranks say as much, and are small
            code, most = torch.unique(code, return_inverse=True)[1], len(code)
        code, most = code * base + column + 1, most * base
    place = torch.unique(code, return_inverse=True)[1]
    first = place.new_zeros(int(place.max()) + 1)
    first[place] = torch.arange(len(place), device=place.device)
    kept = tokens[first]
    return Answers(answers.prompts, answers.prompt[first], kept.clamp(min=0), kept >= 0), place


def log_probs(
    model: LanguageModel, answers: Answers, *, share_prompts: bool = True
) -> Float[Tensor, "U L"]:
    """Return log π(token∣prompt, tokens before) of every token; 0 outside the mask.

    Args:
        model: the policy.
        answers: the outputs; what stands outside the mask may be any number.
        share_prompts: read each prompt once for all its outputs. Else every row is a sequence of
            its own, as per-output gradients need it.

    Raises:
        ValueError: if prompts and outputs do not fit the model's context.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Answers, Prompts, Transformer, TransformerShape, log_probs
        >>> policy = Transformer(TransformerShape(vocabulary_size=6, width=8, num_heads=2))
        >>> answers = Answers.of(Prompts.of([[2, 3]], pad_token=0), [torch.tensor([5, 1])])
        >>> with torch.no_grad():
        ...     _ = policy.head.weight.zero_()  # all 6 tokens are equally likely
        ...     probs = log_probs(policy, answers).exp()
        >>> [round(prob, 4) for prob in probs[0].tolist()]
        [0.1667, 0.1667]
    """
    require_context(model, answers.prompts, answers.tokens.shape[1], "the length of outputs")
    logits = (logits_before if share_prompts else _logits_of_sequences)(model, answers)
    tokens = answers.tokens.masked_fill(~answers.mask, 0)
    chosen = logits.log_softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
    return chosen.masked_fill(~answers.mask, 0.0)


def logits_before(model: LanguageModel, answers: Answers) -> Float[Tensor, "U L v"]:
    """Return the logits before every token; the model reads each prompt once for all its outputs.

    What stands outside the mask is noise.
    """
    prompts, rows = answers.prompts, answers.prompt
    first, cache = model(prompts.tokens, prompts.real, last=1)
    logits = first[rows, -1:]
    if answers.tokens.shape[1] == 1:
        return logits
    rest, _ = model(*_read_before(answers), model.select(cache, rows))
    return torch.cat([logits, rest], dim=1)


def _logits_of_sequences(model: LanguageModel, answers: Answers) -> Float[Tensor, "U L v"]:
    """Return the same from whole sequences, each with a prompt of its own."""
    before, seen = _read_before(answers)
    length = answers.tokens.shape[1]
    sequences = torch.cat([answers.prompts.tokens[answers.prompt], before], dim=1)
    logits, _ = model(sequences, seen, last=length)
    return logits[:, -length:]


def _read_before(answers: Answers) -> tuple[Tensor, Tensor]:
    """Return all tokens of the outputs but the last, and which are real, the prompts' too."""
    before = answers.tokens.masked_fill(~answers.mask, 0)[:, :-1]
    return before, torch.cat([answers.prompts.real[answers.prompt], answers.mask[:, :-1]], dim=1)


def weighted_score(
    model: LanguageModel,
    rollouts: Rollouts,
    weights: Float[Tensor, "B G"],
    *,
    rows_per_pass: int | None = None,
) -> Gradient:
    """Return Σ_b Σ_i w_bi ∇ log π(y_bi∣x_b), one tensor a trained parameter.

    With weights advantage/(BG) this is the policy gradient of Algorithm 1. An output that occurs
    several times is scored once, and one without weight not at all.

    Args:
        model: the policy.
        rollouts: outputs, from this policy or another.
        weights: of each output.
        rows_per_pass: bounds the memory: so many distinct outputs at a time; None takes all.

    Raises:
        ValueError: if the weights' shape is not that of the groups, or no parameter is trained.

    Examples:
        >>> import torch
        >>> from ustat_grpo import Grpo, lm
        >>> policy, tokenizer = lm.shipped_policy("beginner"), lm.CharacterTokenizer()
        >>> rng = torch.Generator().manual_seed(0)
        >>> prompts = tokenizer.prompts(["7+15-9="])
        >>> rollouts = lm.sample_groups(policy, prompts, 4, max_tokens=6, rng=rng)
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> gradient = lm.weighted_score(policy, rollouts, Grpo().advantages(rewards) / 4)
        >>> [part.shape for part in gradient] == [each.shape for each in policy.parameters()]
        True
    """
    require_weights("weights", weights, rollouts)
    answers, place = distinct(rollouts)
    summed = weights.new_zeros(len(answers)).index_add(0, place.flatten(), weights.flatten())
    return weighted_score_of(model, answers, summed, rows_per_pass=rows_per_pass)


def weighted_score_of(
    model: LanguageModel,
    answers: Answers,
    weights: Float[Tensor, " U"],
    *,
    rows_per_pass: int | None = None,
) -> Gradient:
    """Return Σ_u w_u ∇ log π(y_u∣x_u), one tensor a trained parameter; see `weighted_score`.

    Raises:
        ValueError: if there is not one weight a row, or no parameter is trained.
    """
    if weights.shape != (len(answers),):
        raise ValueError(
            f"weights must be one a row, {len(answers)} in all, got shape {tuple(weights.shape)}"
        )
    weighty = weights.nonzero().squeeze(-1)
    of_rows = weights[weighty, None]
    return token_weighted_score(
        model, answers[weighty], lambda rows, *_: of_rows[rows], rows_per_pass=rows_per_pass
    )


def token_weighted_score(
    model: LanguageModel,
    answers: Answers,
    coefficients: Coefficients,
    *,
    rows_per_pass: int | None = None,
) -> Gradient:
    """Return Σ_u Σ_t c_ut ∇ log π(y_ut∣x_u, y_u,<t), one tensor a trained parameter.

    Args:
        model: the policy.
        answers: the outputs.
        coefficients: c of some of the rows, which may depend on the policy; no gradient flows
            through them.
        rows_per_pass: bounds the memory: so many rows at a time; None takes all.

    Raises:
        ValueError: if no parameter is trained.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("model must have a parameter that requires a gradient, got none")
    total: Gradient = tuple(torch.zeros_like(p) for p in trained)
    for rows in passes(len(answers), rows_per_pass):
        part = without_padding(answers[rows])
        of_tokens = log_probs(model, part)
        objective = (of_tokens * coefficients(rows, part, of_tokens.detach())).sum()
        parts = torch.autograd.grad(objective, trained, materialize_grads=True)
        total = tuple(a + b for a, b in zip(total, parts, strict=True))
    return total


def without_padding(answers: Answers) -> Answers:
    """Return the same rows without the columns that hold no token of any."""
    stop = max(1, int(answers.mask.sum(dim=1).max()))
    return replace(answers, tokens=answers.tokens[:, :stop], mask=answers.mask[:, :stop])


def passes(count: int, size: int | None) -> Iterator[slice]:
    """Cut `count` rows into slices of `size`, or leave them whole if that is None."""
    size = count if size is None else integer("rows_per_pass", size)
    return (slice(start, start + size) for start in range(0, count, max(size, 1)))


def squared_norm(gradient: Gradient) -> float:
    """Return ‖gradient‖², summed in double precision."""
    return sum(float(part.double().square().sum()) for part in gradient)
