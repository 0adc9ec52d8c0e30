"""The arithmetic task of the language models as an environment: an action is a token."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from jaxtyping import Int

from ustat_grpo.arithmetic.problems import (
    RANGES,
    ArithmeticProblem,
    OperandRanges,
    arithmetic_problems,
)
from ustat_grpo.arithmetic.tokens import ARITHMETIC, END, PAD, decode, encode
from ustat_grpo.environments.text_mode import METADATA, one_of, text_mode
from ustat_grpo.inputs.arrays import Integers
from ustat_grpo.inputs.checks import integer


class ArithmeticEnv(gymnasium.Env[Integers, np.int64]):
    """A prompt such as `27+35=`, an output token by token, and a reward at its end.

    The reward is 1 if the whole output is the answer's characters and the end token, else 0, as by
    `ustat_grpo.lm.ExactMatch`: an output without end token after `max_tokens` is wrong. Both ways
    of ending terminate the episode. Only `reset` is random. An observation is the prompt's tokens,
    those of the output so far, and padding up to the longest that there can be.

    Args:
        num_problems: how many problems `reset` chooses from, all equally likely; a multiple of 5.
        problem_seed: which problems; see `arithmetic_problems`.
        ranges: from where their numbers are drawn.
        max_tokens: the most tokens of an output, the end token included.
        render_mode: None or "ansi".

    Raises:
        ValueError: if a number is out of range, the ranges do not hold that many distinct
            problems, or the mode is unknown.
    """

    metadata = METADATA

    def __init__(
        self,
        num_problems: int = 100,
        problem_seed: int = 0,
        *,
        ranges: OperandRanges = RANGES,
        max_tokens: int = 6,
        render_mode: str | None = None,
    ) -> None:
        integer("problem_seed", problem_seed, at_least=0)
        self.max_tokens: int = integer("max_tokens", max_tokens)
        self.render_mode: str | None = text_mode(render_mode)
        rng = np.random.default_rng(problem_seed)
        problems = arithmetic_problems(num_problems, rng=rng, ranges=ranges)
        self.problems: tuple[ArithmeticProblem, ...] = problems
        self._prompts = [encode(each.text.replace(" ", "") + "=") for each in self.problems]
        vocabulary_size = len(ARITHMETIC) + 2
        length = max(len(prompt) for prompt in self._prompts) + max_tokens
        self._tokens = Discrete(vocabulary_size)
        self.action_space: Space[Any] = self._tokens
        self.observation_space: Space[Any] = MultiDiscrete(np.full(length, vocabulary_size))
        self._problem: int | None = None
        self._output: list[int] = []

    @property
    def problem(self) -> ArithmeticProblem:
        """The problem of the episode."""
        return self.problems[self._drawn()]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Int[Integers, " L"], dict[str, Any]]:
        """Draw a problem; `options` are not used."""
        super().reset(seed=seed)
        self._problem = int(self.np_random.integers(len(self.problems)))
        self._output = []
        return self._observation(), {}

    def step(
        self, action: int | np.integer
    ) -> tuple[Int[Integers, " L"], float, bool, bool, dict[str, Any]]:
        """Append a token to the output.

        Raises:
            ValueError: if the action is no token.
            gymnasium.error.ResetNeeded: if the output has ended, or there was no reset.
        """
        solution = [*encode(str(self.problem.answer)), END]
        if self._ended():
            raise ResetNeeded("the output has ended: call reset before the next step")
        self._output.append(one_of(self._tokens, action))
        reward = float(self._output == solution)
        return self._observation(), reward, self._ended(), False, {}

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return prompt and output so far as text, such as `27+35=62`."""
        if self.render_mode is None:
            return None
        return decode(self._prompts[self._drawn()]) + decode(self._output)

    def _drawn(self) -> int:
        """Return which problem it is, or raise if there is none yet."""
        if self._problem is None:
            raise ResetNeeded("call reset before the first step")
        return self._problem

    def _ended(self) -> bool:
        return len(self._output) == self.max_tokens or END in self._output

    def _observation(self) -> Int[Integers, " L"]:
        tokens = self._prompts[self._drawn()] + self._output
        observation = np.full(self.observation_space.shape or (), PAD)
        observation[: len(tokens)] = tokens
        return observation
