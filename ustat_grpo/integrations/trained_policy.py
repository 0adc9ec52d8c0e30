"""The model inside a trainer as a policy to be measured, for a moment and without a trace."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, NoReturn

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ustat_grpo.lm.language_model import ended_by, last_of, places_of
from ustat_grpo.lm.models.huggingface import understood


class TrainedPolicy(nn.Module):
    """A causal model of `transformers` that is in training; meets `ustat_grpo.lm.LanguageModel`.

    Unlike `ustat_grpo.lm.models.huggingface.HuggingFaceModel` it switches nothing in the model, and
    keeps no cache.

    Args:
        model: the model, without what a trainer wraps around it.
        end_token: the token that ends an output.
        temperature: outputs are drawn from softmax(logits/temperature).
    """

    context_length: int = sys.maxsize  # what the trainer generated fits

    def __init__(self, model: Any, *, end_token: int, temperature: float) -> None:
        """Find out which options the model understands."""
        super().__init__()
        self.model: Any = model
        self.end_token: int = end_token
        self.temperature: float = temperature
        self._understood = signature(model.forward).parameters.keys()

    def ended(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs end with the last of their tokens."""
        return ended_by(self.end_token, outputs)

    def forward(
        self,
        tokens: Int[Tensor, "n t"],
        real: Bool[Tensor, "n s"],
        cache: None = None,
        *,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "n t v"], None]:
        """Return logits/temperature, in single precision at least, and no cache."""
        places = places_of(real, tokens.shape[-1], self.context_length)
        found = self.model(
            input_ids=tokens,
            attention_mask=real.long(),
            use_cache=False,
            **understood(self._understood, places, last),
        )
        logits = last_of(found.logits, last).float()
        return logits if self.temperature == 1 else logits / self.temperature, None

    def select(self, cache: None, rows: Int[Tensor, " m"]) -> NoReturn:
        """Raise: there is no cache to select from.

        Raises:
            ValueError: always.
        """
        raise ValueError("sequences must be read whole by a model in training, got a cached prompt")


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put all modules into evaluation mode, and then each back into the mode that it was in.

    So nothing draws a random number, and transformers does not checkpoint gradients. What it makes
    of frozen embeddings for checkpointing's sake, outputs that require a gradient, is undone, too.

    Args:
        model: a model of `transformers`.
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:  # not by eval(), which some models override to keep a mode
        module.training = False
    hook = model.get_input_embeddings().register_forward_hook(_without_derivative_of_its_own)
    try:
        yield
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training


def _without_derivative_of_its_own(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach() if output.is_leaf else output
