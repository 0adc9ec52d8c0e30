"""A value network of the policy's size, and its regression on rewards.

V̂(x, y_<t) is read at the last token of the prompt (t = 1), or at every token as PPO does.
"""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ustat_grpo.inputs.checks import same_length
from ustat_grpo.lm.models.transformer import Transformer
from ustat_grpo.lm.scoring import Answers, Gradient, logits_before


def value_network(policy: Transformer) -> Transformer:
    """Return a critic that starts from the policy's weights, with one output that is 0 everywhere.

    It is called as the policy is; its one logit is V̂.

    Args:
        policy: is copied, and not changed.

    Examples:
        >>> from ustat_grpo.lm import Prompts, shipped_policy, value_network
        >>> critic = value_network(shipped_policy("intermediate"))
        >>> prompts = Prompts.of([[2, 3]], pad_token=0)
        >>> values, _ = critic(prompts.tokens, prompts.real)
        >>> abs(values).tolist()  # one number a place, 0 before any training
        [[[0.0], [0.0]]]
    """
    critic = deepcopy(policy)
    weight = policy.head.weight
    critic.head = nn.Linear(policy.shape.width, 1, device=weight.device, dtype=weight.dtype)
    for parameter in critic.head.parameters():
        nn.init.zeros_(parameter)
    return critic


def values(critic: Transformer, answers: Answers, *, per_token: bool) -> Float[Tensor, "U T"]:
    """Return V̂(x, y_<t) before every token of the outputs; what stands outside the mask is noise.

    Args:
        critic: from `value_network`.
        answers: the outputs.
        per_token: whether the critic reads the outputs. Else it reads each prompt once, and T = 1.
    """
    if per_token:
        return logits_before(critic, answers)[..., 0]
    found, _ = critic(answers.prompts.tokens, answers.prompts.real, last=1)
    return found[answers.prompt, -1]


def regression(
    critic: Transformer,
    answers: Answers,
    returns: Float[Tensor, " U"],
    counts: Float[Tensor, " U"],
    *,
    per_token: bool,
) -> tuple[Gradient, Float[Tensor, "U T"]]:
    """Return the gradient of the mean squared error, and the predictions that it is the error of.

    ∇ Σ_u n_u Σ_t (V̂(x_u, y_u,<t) − Z_u)² / Σ_u n_u T_u, with T_u the tokens of an output, or 1 if
    the critic reads the prompts only. With discount and λ of 1 the return of every token is Z.

    Args:
        critic: from `value_network`.
        answers: the outputs.
        returns: Z of each; the mean if an output stands for several.
        counts: n, how many each stands for; 0 leaves it out.
        per_token: see `values`.

    Raises:
        ValueError: if there is not one return and one count a row.
    """
    same_length("rows", {"answers": len(answers), "returns": len(returns), "counts": len(counts)})
    found = values(critic, answers, per_token=per_token)
    weights = counts[:, None] * (answers.mask if per_token else torch.ones_like(found))
    squares = weights * (found - returns[:, None]).square()
    loss = squares.sum() / weights.sum().clamp(min=1)
    trained = [each for each in critic.parameters() if each.requires_grad]
    # Where only prompts are read nothing is asked after the first place, so nothing is left out.
    return torch.autograd.grad(loss, trained), found.detach()
