"""Norms and inner products of scores W_u = ∇ log π(y_u∣x_u), without a matrix of all of them.

For one parameter, W_u is a matrix Σ_t left_ut right_utᵀ. So ⟨W_u, W_v⟩ is the product of two
matrices written out, or Σ_ts ⟨left_ut, left_vs⟩⟨right_ut, right_vs⟩, all products of tokens:
whichever is cheaper for the parameter's size and the number of tokens. Outputs of one prompt share
what layers read of it, and then a third way is cheaper yet: `_add_gram_of_shared`.

Reference: Goodfellow 2015, arXiv 1510.01799; for sequences and embeddings Li et al. 2021, "Large
language models can be strong differentially private learners", arXiv 2110.05679, section 4.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import combinations_with_replacement, product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.sampling import require_torch_generator
from ustat_grpo.lm.scores.calls import Part, matrices
from ustat_grpo.lm.scores.layers import require_separable, trained_layers, visit_parts
from ustat_grpo.lm.scores.sharing import num_shared
from ustat_grpo.lm.scoring import Answers, passes, squared_norm, weighted_score_of

LARGEST_BLOCK, OF_LARGE = 2**18, 2**21
"""The most numbers of an intermediate array, where it can be had in blocks: 1 MB of float32, and
8 MB for matrices of more than `LARGEST_BLOCK` numbers, whose products would be too thin."""

COST_OF_A_PRODUCT = 16
"""What handling one product of two tokens costs beside its additions and multiplications."""


def score_norms(
    model: LanguageModel, answers: Answers, *, rows_per_pass: int | None = None
) -> Float[Tensor, " U"]:
    """Return ‖W_u‖² = ‖∇ log π(y_u∣x_u)‖² of every row, exactly.

    It takes one forward and one backward pass of all rows, in which parameters get no gradient, and
    leaves model and gradients as they were. Every row is a sequence of its own.

    Args:
        model: a module whose trained parameters belong to nn.Linear, nn.Embedding, modules like
            nn.RMSNorm and nn.LayerNorm, others that multiply by a matrix (`Conv1D`, scaled
            embeddings, routers), and mixtures of experts; its dropout, if any, is for the caller
            to switch off.
        answers: the outputs y_u to prompts x_u.
        rows_per_pass: bounds the memory: so many rows at a time; None takes all.

    Raises:
        TypeError: if the model is no torch.nn.Module.
        ValueError: if a trained parameter belongs to a module of another kind, or is used outside
            its module, too; or a layer does not have the rows as its first axis.
        RuntimeError: if a layer runs without derivatives (reentrant gradient checkpointing).

    Reference: Goodfellow 2015, arXiv 1510.01799; Li et al. 2021, arXiv 2110.05679.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo.lm import arithmetic_questions, score_gram, score_norms, shipped_policy
        >>> policy = shipped_policy("intermediate")
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> norms = score_norms(policy, questions.solutions)  # one pass, no score is stored
        >>> diagonal = score_gram(policy, questions.solutions).diagonal()
        >>> tuple(norms.shape), bool(((norms - diagonal).abs() < 1e-3 * norms).all())
        ((5,), True)
    """
    layers = trained_layers(model)
    total = _zeros(model, answers, len(answers))
    if len(answers):
        require_separable(model, answers, layers)
    for rows in passes(len(answers), rows_per_pass):
        here = total[rows]  # a view

        def add(parameter: nn.Parameter, parts: list[Part], here: Tensor = here) -> None:
            here.add_(squared_norms(parts, parameter))

        visit_parts(model, answers[rows], layers, add)
    return total


def score_gram(model: LanguageModel, answers: Answers) -> Float[Tensor, "U U"]:
    """Return ⟨W_u, W_v⟩ of all pairs of rows, also those that answer different prompts.

    One forward and one backward pass of all rows at once, as in `score_norms`, whose remarks and
    errors hold here. The memory on top is that of a block and the result.

    Args:
        model: see `score_norms`.
        answers: the outputs y_u to prompts x_u.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo.lm import arithmetic_questions, score_gram, shipped_policy
        >>> policy = shipped_policy("intermediate")
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> gram = score_gram(policy, questions.solutions)
        >>> unit = torch.diag(gram.diagonal() ** -0.5)
        >>> cosines = unit @ gram @ unit  # of the scores of all pairs of solutions
        >>> tuple(cosines.shape), bool((cosines.abs() < 1.001).all())
        ((5, 5), True)
    """
    layers = trained_layers(model)
    total = _zeros(model, answers, len(answers), len(answers))
    if len(answers):
        require_separable(model, answers, layers)
        visit_parts(
            model, answers, layers, lambda parameter, parts: add_gram(total, parts, parameter)
        )
    return total.triu_() + total.triu(1).mT


def probe_norms(
    model: LanguageModel,
    answers: Answers,
    weights: Float[Tensor, " U"],
    *,
    num_probes: int,
    rng: torch.Generator,
    rows_per_pass: int | None = None,
) -> tuple[float, float]:
    """Return an unbiased estimate of Σ_u w_u² ‖W_u‖², for any model, and its standard error.

    With independent random signs ε_u, E‖Σ_u ε_u w_u W_u‖² = Σ_u w_u² ‖W_u‖²: products of different
    rows vanish on average.

    Args:
        model: the policy; gradients of sums are all that it is asked for.
        answers: the outputs y_u to prompts x_u.
        weights: w_u of each row.
        num_probes: draws of signs, each a forward and backward pass; at least 2.
        rng: source of the signs.
        rows_per_pass: bounds the memory: so many rows at a time; None takes all.

    Raises:
        TypeError: if `rng` is no torch.Generator.
        ValueError: if there are fewer than 2 probes, or not one weight a row.

    Reference: Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix".

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from ustat_grpo.lm import arithmetic_questions, probe_norms, score_norms, shipped_policy
        >>> policy, rng = shipped_policy("intermediate"), torch.Generator().manual_seed(0)
        >>> _, questions = arithmetic_questions(5, 5, rng=np.random.default_rng(0))
        >>> total, std_error = probe_norms(
        ...     policy, questions.solutions, torch.ones(5), num_probes=8, rng=rng
        ... )
        >>> abs(total - score_norms(policy, questions.solutions).sum().item()) < 4 * std_error
        True
    """
    require_torch_generator(rng)
    shape = (integer("num_probes", num_probes, at_least=2), len(answers))
    signs = 2 * torch.randint(2, shape, generator=rng, device=rng.device) - 1
    norms = signed_norms(model, answers, weights, signs, rows_per_pass=rows_per_pass)
    return float(norms.mean()), float(norms.std() / len(norms) ** 0.5)


def signed_norms(
    model: LanguageModel,
    answers: Answers,
    weights: Float[Tensor, " U"],
    signs: Tensor,
    *,
    rows_per_pass: int | None = None,
) -> Float[Tensor, " K"]:
    """Return ‖Σ_u ε_ku w_u W_u‖² of each row of signs ε, shape (K, U), in double precision.

    Raises:
        ValueError: if there is not one weight a row.
    """
    if weights.shape != (len(answers),):
        raise ValueError(
            f"weights must be one a row, {len(answers)} in all, got shape {tuple(weights.shape)}"
        )
    scores = (
        weighted_score_of(model, answers, weights * sign, rows_per_pass=rows_per_pass)
        for sign in signs.to(weights)
    )
    return torch.tensor([squared_norm(score) for score in scores], dtype=torch.float64)


def squared_norms(parts: list[Part], parameter: Tensor) -> Float[Tensor, " n"]:
    """Return ‖Σ_parts Σ_t left_ut right_utᵀ‖² of every row u, the gradient of one parameter."""
    return reduce(torch.add, (_norms_of_matrix(*each) for each in matrices(parts, parameter)))


def _norms_of_matrix(parts: list[Part], matrix: Tensor) -> Float[Tensor, " n"]:
    height, width = _sizes(matrix)
    num_rows, tokens = parts[0].right.shape[0], sum(part.right.shape[1] for part in parts)
    pairs = list(combinations_with_replacement(parts, 2))
    by_tokens = sum(_cost(a, b, height, width) for a, b in pairs)
    total = parts[0].right.new_zeros(num_rows)
    if by_tokens > (tokens + 1) * height * width:
        for rows in _blocks(num_rows, height * width):
            for columns in _blocks(height, width):
                written = _written_out(parts, rows, columns)
                total[rows] += written.square_().sum(dim=(-2, -1))
        return total
    for a, b in pairs:
        size = a.right.shape[1] * b.right.shape[1]
        for rows in _blocks(num_rows, size):
            products = _inner(a.left[rows], b.left[rows]) * _inner(a.right[rows], b.right[rows])
            total[rows] += (1 if a is b else 2) * products.sum(dim=(-2, -1))
    return total


def add_gram(total: Tensor, parts: list[Part], parameter: Tensor) -> None:
    """Add the products of one parameter's gradients to the upper triangle of a U×U matrix."""
    for pair in matrices(parts, parameter):
        _add_gram_of_matrix(total, *pair)


def _add_gram_of_matrix(total: Tensor, parts: list[Part], matrix: Tensor) -> None:
    height, width = _sizes(matrix)
    num_rows, tokens = parts[0].right.shape[0], sum(part.right.shape[1] for part in parts)
    pairs = list(product(parts, repeat=2))
    by_tokens = num_rows * sum(_cost(a, b, height, width) for a, b in pairs)
    written_out = (2 * tokens + num_rows) * height * width
    if len(parts) == 1 and parts[0].left.is_floating_point():
        part, first = _shared_first(parts[0])
        if num_rows * _cost_of_shared(part, first) < min(by_tokens, written_out):
            _add_gram_of_shared(total, part, first)
            return
    if by_tokens > written_out:
        limit = OF_LARGE if height * width > LARGEST_BLOCK else LARGEST_BLOCK
        for columns in _blocks(height, num_rows * width, limit):
            written = _written_out(parts, slice(None), columns).flatten(1)
            for rows in passes(num_rows, 128):
                total[rows, rows.start :] += written[rows] @ written[rows.start :].mT
        return
    for a, b in pairs:
        _add_all_products(total, a, b)


def _add_all_products(total: Tensor, a: Part, b: Part) -> None:
    """Add the products of all rows of one part with these and all later rows of another."""
    num_rows = len(a.right)
    for rows in _blocks(num_rows, num_rows * a.right.shape[1] * b.right.shape[1]):
        total[rows, rows.start :] += _all_products(a, b, rows)


def _shared_first(part: Part) -> tuple[Part, int]:
    """Return how many of the first `right` are the same in all rows, with sides changed if need be.

    They are what a layer reads of a prompt that all rows answer. Sides are changed where that is
    `left`: Σ right leftᵀ has the products of Σ left rightᵀ.
    """
    if first := num_shared(part.right):
        return part, first
    return Part(part.right, part.left), num_shared(part.left)


def _cost_of_shared(part: Part, first: int) -> int:
    """Return how many operations a pair of rows takes in `_add_gram_of_shared`."""
    others = part.right.shape[1] - first
    effort = part.left.shape[-1] + part.right.shape[-1] + COST_OF_A_PRODUCT
    return 2 * first * part.left.shape[-1] + others**2 * effort


def _add_gram_of_shared(total: Tensor, part: Part, first: int) -> None:
    """Add the products of W_u = Σ_{t≤first} left_ut r_tᵀ + O_u, where r_t is that of every row.

    With K_ts = ⟨r_t, r_s⟩ and O_v r_t = Σ_s left_vs ⟨right_vs, r_t⟩ over the other tokens s,
    ⟨W_u, W_v⟩ − ⟨O_u, O_v⟩ = ⟨left_u, ½ K left_v + O_v r⟩ + ⟨½ K left_u + O_u r, left_v⟩: vectors
    of first·p numbers in place of the p·q of a matrix.
    """
    shared = part.right[0, :first]
    others = Part(part.left[:, first:], part.right[:, first:])
    left = part.left[:, :first]
    partner = shared @ shared.mT / 2 @ left + shared @ others.right.mT @ others.left
    half = left.flatten(1) @ partner.flatten(1).mT
    total += half + half.mT
    if first < part.right.shape[1]:
        _add_all_products(total, others, others)


def _all_products(a: Part, b: Part, rows: slice) -> Float[Tensor, "r v"]:
    """Return the products of some rows of one part with these and all later rows of another."""
    later = slice(rows.start, None)
    products = _inner(a.left[rows].flatten(0, 1), b.left[later].flatten(0, 1))
    products = products * _inner(a.right[rows].flatten(0, 1), b.right[later].flatten(0, 1))
    shape = (-1, a.right.shape[1]), (-1, b.right.shape[1])
    return products.unflatten(1, shape[1]).unflatten(0, shape[0]).sum(dim=(1, 3))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return all ⟨a_s, b_t⟩, shape (…, s, t), where integers stand for unit vectors."""
    if a.is_floating_point() and b.is_floating_point():
        return a @ b.mT
    if a.is_floating_point():
        return a.take_along_dim(b[..., None, :], dim=-1)
    if b.is_floating_point():
        return b.take_along_dim(a[..., None, :], dim=-1).mT
    return a[..., :, None] == b[..., None, :]


def _written_out(parts: list[Part], rows: slice, columns: slice) -> Float[Tensor, "n p q"]:
    """Return some rows' gradients of one parameter, and of each some rows of the matrix."""

    def written(part: Part) -> Tensor:
        left = part.left[rows]
        if left.is_floating_point():
            left = left[..., columns]
        else:
            numbers = torch.arange(columns.start, columns.stop, device=left.device)
            left = (left[..., None] == numbers).to(part.right.dtype)
        return left.mT @ part.right[rows]

    return reduce(torch.add, map(written, parts))


def _cost(a: Part, b: Part, height: int, width: int) -> int:
    """Return how many operations a row's token products take; unit vectors cost next to nothing."""
    dense = a.left.is_floating_point() and b.left.is_floating_point()
    effort = (height if dense else 0) + width + COST_OF_A_PRODUCT
    return a.right.shape[1] * b.right.shape[1] * effort


def _sizes(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter[0].numel()


def _blocks(count: int, size: int, limit: int = LARGEST_BLOCK) -> Iterator[slice]:
    """Cut `count` things of `size` numbers each into blocks of at most `limit` numbers."""
    step = max(1, limit // size)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _zeros(model: LanguageModel, answers: Answers, *shape: int) -> Tensor:
    kind = torch.float32
    for parameter in model.parameters():
        kind = torch.promote_types(kind, parameter.dtype)
    return torch.zeros(shape, dtype=kind, device=answers.tokens.device)
