"""What is known without sampling when one output is right: value, gradient, accuracy.

With the exact-match reward V(x) = π(y*∣x) and g(x) = ∇π(y*∣x) = V(x)·∇log π(y*∣x): one forward and
one backward pass a prompt stand in the place of a Monte Carlo oracle.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ustat_grpo.lm.language_model import LanguageModel
from ustat_grpo.lm.scoring import Answers, Gradient, log_probs, passes, weighted_score_of


@torch.no_grad()
def solution_probs(
    model: LanguageModel, solutions: Answers, *, rows_per_pass: int | None = None
) -> Float[Tensor, " P"]:
    """Return V(x) = π(y*∣x) at every prompt.

    Args:
        model: the policy.
        solutions: the one right output to each prompt.
        rows_per_pass: bounds the memory: so many prompts at a time; None takes all.
    """
    parts = [
        log_probs(model, solutions[rows]).sum(dim=-1).exp()
        for rows in passes(len(solutions), rows_per_pass)
    ]
    return torch.cat(parts)


def expected_accuracy(model: LanguageModel, solutions: Answers) -> float:
    """Return J = E π(y*∣X), the accuracy that sampled outputs have on average."""
    return float(solution_probs(model, solutions).double().mean())


def objective_gradient(
    model: LanguageModel, solutions: Answers, *, rows_per_pass: int | None = None
) -> Gradient:
    """Return ∇J = E g(X), each prompt weighted alike."""
    weights = solution_probs(model, solutions, rows_per_pass=rows_per_pass) / len(solutions)
    return weighted_score_of(model, solutions, weights, rows_per_pass=rows_per_pass)
