"""Rewards by a function of the user's, called as trl calls reward functions."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ustat_grpo.inputs.quoting import one_line, quoted
from ustat_grpo.lm.judging.text_rewards import Reader
from ustat_grpo.lm.language_model import Rollouts

RewardFunction = Callable[..., Sequence[float | None]]
"""Takes prompts, completions, completion_ids and the columns of a data set, all as long as the
completions, and returns a reward for each, or None where it has none."""


def _unlogged(*_: Any) -> None:
    """Take what trl would write into its tables."""


_BESIDE = {"trainer_state": None, "log_extra": _unlogged, "log_metric": _unlogged}
"""What trl hands over beside texts and columns; there is no trainer here."""

_OWN = ("prompts", "completions", "completion_ids", "prompt", "completion", *_BESIDE)
"""Arguments that are no columns."""


@dataclass(frozen=True, eq=False)
class FunctionReward:
    """Rewards of texts by a function, which is called once a prompt with all outputs to it.

    Meets `ustat_grpo.lm.questions.rewards.Reward`. Where the function returns None or NaN, an
    output has no reward and is left out of its group.

    Args:
        function: is called by keywords: prompts, completions (texts), completion_ids (lists of
            tokens), each column of the questions, and trainer_state, log_extra and log_metric,
            which do nothing here.
        prompts: the text of each question of the set, as it is asked.
        columns: what else is known of each question.
        reader: decodes outputs.
        name: what errors call the function.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import CharacterTokenizer, FunctionReward, Prompts, Rollouts
        >>> def length(completions, **_):
        ...     return [len(each) for each in completions]
        >>> tokenizer = CharacterTokenizer()
        >>> outputs = torch.stack(tokenizer.outputs(["42", "+7"]))[None]
        >>> mask = torch.ones_like(outputs, dtype=torch.bool)
        >>> rollouts = Rollouts(tokenizer.prompts(["6*7="]), outputs, mask, torch.zeros(1, 2, 3))
        >>> FunctionReward(length, ["6*7="], [{}], tokenizer)(rollouts, torch.tensor([0])).tolist()
        [[2.0, 2.0]]
    """

    function: RewardFunction
    prompts: Sequence[str]
    columns: Sequence[Mapping[str, Any]]
    reader: Reader
    name: str = "reward function"

    def __call__(self, rollouts: Rollouts, questions: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
        """Return the reward of each output; see `Reward`.

        Raises:
            ValueError: if the function raises, or does not return one number an output.
        """
        like = rollouts.log_probs
        groups = zip(rollouts.outputs.cpu(), rollouts.mask.cpu(), questions.tolist(), strict=True)
        rewards = [
            self._of_group([row[real].tolist() for row, real in zip(*group, strict=True)], question)
            for *group, question in groups
        ]
        return torch.tensor(rewards, dtype=like.dtype, device=like.device)

    def _of_group(self, outputs: list[list[int]], question: int) -> list[float]:
        """Return the rewards of all outputs to a prompt."""
        count = len(outputs)
        columns = {
            key: [value] * count for key, value in self.columns[question].items() if key not in _OWN
        }
        where = f"{self.name} at prompt {question}"
        try:
            returned = self.function(
                prompts=[self.prompts[question]] * count,
                completions=[self.reader.decode(tokens) for tokens in outputs],
                completion_ids=outputs,
                **_BESIDE,
                **columns,
            )
        except Exception as error:  # of any kind: it is the user's
            raise ValueError(
                f"{where} must return rewards, raised {type(error).__name__}: {one_line(error)}"
            ) from error
        got = len(returned) if isinstance(returned, Sequence | Tensor) else quoted(returned)
        if got != count:
            raise ValueError(f"{where} must return {count} rewards, one an output, got {got}")
        return [_number(where, value) for value in returned]


def _number(where: str, value: Any) -> float:
    """Return a reward as a number, NaN where there is none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is None:
        return float("nan")
    if not isinstance(value, Real):
        raise ValueError(f"{where} must return numbers or None, got {quoted(value)}")
    return float(value)


def load_function(name: str, option: str = "reward") -> RewardFunction:
    """Return the function that a text MODULE:FUNCTION names; modules of this folder are found.

    Args:
        name: such as `my_rewards:accuracy`.
        option: what an error calls it.

    Raises:
        ValueError: if there is no such module or function, or importing it fails.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{option} must be MODULE:FUNCTION, got {name!r}")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` has it, which an installed command has not
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of any kind: it is the user's module
        raise ValueError(
            f"{option} must name a function that can be imported, got {name!r} "
            f"({type(error).__name__}: {one_line(error)})"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ValueError(f"{option} must name a function that is not async, got {name!r}")
    return cast(RewardFunction, function)
