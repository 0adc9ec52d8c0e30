"""The contextual bandit as an environment: one step an episode, a reward of 0 or 1."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from ustat_grpo.environments.text_mode import METADATA, one_of, text_mode
from ustat_grpo.inputs.arrays import Array, Booleans, Integers
from ustat_grpo.inputs.checks import finite, integer, probabilities, same_length, unit_interval

_DEFAULT_SHAPE = 16, 4
_DRAWN_AT_ONCE = 2**14  # numbers; enough to make the cost of a draw vanish, few enough to be quick
_VECTOR_METADATA: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}


@dataclass(frozen=True, eq=False)
class _Table:
    """P(Z = 1∣x, a), shape (P, K), and f(x), shape (P,)."""

    success: Float[Array, "P K"]
    prompt_probs: Float[Array, " P"]

    @classmethod
    def of(
        cls, success: ArrayLike | None, prompt_probs: ArrayLike | None, table_seed: int
    ) -> "_Table":
        """Check a table, or draw one of 16 contexts and 4 actions uniformly."""
        integer("table_seed", table_seed, at_least=0)
        if success is None:
            success = np.random.default_rng(table_seed).random(_DEFAULT_SHAPE)
        table = unit_interval("success", finite("success", success, ndim=2))
        if prompt_probs is None:
            return cls(table, np.full(len(table), 1 / len(table)))
        prompts = probabilities("prompt_probs", prompt_probs, ndim=1)
        same_length("contexts", {"success": len(table), "prompt_probs": len(prompts)})
        return cls(table, prompts)


class ContextualBanditEnv(gymnasium.Env[np.int64, np.int64]):
    """A context x ~ f, an action a, a reward Z ~ Bernoulli(success[x, a]), and the end.

    The context is drawn by `reset` and the reward by `step`, so that copies that were reset with
    one seed and then given generators of their own have one context and independent rewards.

    Args:
        success: P(Z = 1∣x, a), shape (P, K); None draws 16 × 4 uniform numbers.
        prompt_probs: f(x), shape (P,); uniform if None.
        table_seed: which table is drawn if `success` is None.
        render_mode: None or "ansi".

    Raises:
        ValueError: if the table holds no probabilities, its number of contexts is not that of
            `prompt_probs`, these do not sum to one, the seed is negative or the mode unknown.
    """

    metadata = METADATA

    def __init__(
        self,
        success: ArrayLike | None = None,
        prompt_probs: ArrayLike | None = None,
        *,
        table_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        table = _Table.of(success, prompt_probs, table_seed)
        self.render_mode: str | None = text_mode(render_mode)
        self.success: Float[Array, "P K"] = table.success
        self.prompt_probs: Float[Array, " P"] = table.prompt_probs
        self._actions = Discrete(self.success.shape[1])
        self.action_space: Space[Any] = self._actions
        self.observation_space: Space[Any] = Discrete(len(self.success))
        self._context: np.int64 | None = None
        self._ending: tuple[int, float] | None = None  # the action and its reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Draw a context; `options` are not used."""
        super().reset(seed=seed)
        self._context = np.int64(self.np_random.choice(len(self.success), p=self.prompt_probs))
        self._ending = None
        return self._context, {}

    def step(self, action: int | np.integer) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Draw the reward of an action; the episode ends, and the context stays as it is.

        Raises:
            ValueError: if the action is no integer in [0, K).
            gymnasium.error.ResetNeeded: if there was no reset since the last step.
        """
        if self._context is None or self._ending is not None:
            raise ResetNeeded("an episode is one step: call reset before each step")
        taken = one_of(self._actions, action)
        reward = float(self.np_random.random() < self.success[self._context, taken])
        self._ending = taken, reward
        return self._context, reward, True, False, {}

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the context, and action and reward if there are any, as a line of text."""
        if self.render_mode is None:
            return None
        if self._ending is None:
            return f"context {self._context}"
        action, reward = self._ending
        return f"context {self._context}, action {action}, reward {reward:g}"


class ContextualBanditVectorEnv(VectorEnv[Integers, Integers, NDArray[Any]]):
    """Many independent copies of `ContextualBanditEnv` in a few array operations a step.

    Every step ends all episodes and begins the next (same-step autoreset): observations are the
    new contexts, and `infos["final_obs"]` the ones that were acted on. It draws random numbers in
    blocks, so a generator assigned to `np_random` takes effect at the next reset.

    Args:
        num_envs: n, the number of copies.
        success: as for `ContextualBanditEnv`.
        prompt_probs: likewise.
        table_seed: likewise.

    Raises:
        ValueError: if there is no copy, or the table is refused by `ContextualBanditEnv`.
    """

    metadata = _VECTOR_METADATA

    def __init__(
        self,
        num_envs: int = 1,
        success: ArrayLike | None = None,
        prompt_probs: ArrayLike | None = None,
        *,
        table_seed: int = 0,
    ) -> None:
        self.num_envs: int = integer("num_envs", num_envs)
        table = _Table.of(success, prompt_probs, table_seed)
        self.success: Float[Array, "P K"] = table.success
        self.prompt_probs: Float[Array, " P"] = table.prompt_probs
        self.single_observation_space: Space[Any] = Discrete(len(self.success))
        self.single_action_space: Space[Any] = Discrete(self.success.shape[1])
        observations = batch_space(self.single_observation_space, self.num_envs)
        self.observation_space: Space[Any] = observations
        self.action_space: Space[Any] = batch_space(self.single_action_space, self.num_envs)
        self._contexts: Int[Integers, "rows n"] | None = None
        self._all, self._none = np.ones(num_envs, np.bool_), np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Int[Integers, " n"], dict[str, Any]]:
        """Draw a context for every copy; `options` are not used."""
        super().reset(seed=seed)
        return self._draw().copy(), {}

    def step(
        self, actions: Int[Integers, " n"]
    ) -> tuple[
        Int[Integers, " n"],
        Float[Array, " n"],
        Bool[Booleans, " n"],
        Bool[Booleans, " n"],
        dict[str, Any],
    ]:
        """Draw a reward and a new context for every copy; all arrays are new.

        Raises:
            ValueError: if the actions are not n integers in [0, K).
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._contexts is None:
            raise ResetNeeded("call reset before the first step")
        contexts, uniforms = self._contexts[self._row], self._uniforms[self._row]
        rewards = (uniforms < self.success.take(self._cells(contexts, actions))).astype(np.float64)
        self._row += 1
        following = self._contexts[self._row] if self._row < len(self._contexts) else self._draw()
        infos = {
            "final_obs": contexts.astype(object),
            "_final_obs": self._all.copy(),
            "final_info": {},
            "_final_info": self._all.copy(),
        }
        return following.copy(), rewards, self._all.copy(), self._none.copy(), infos

    def _draw(self) -> Int[Integers, " n"]:
        """Draw contexts and uniform numbers for steps to come, and return the first contexts."""
        shape = max(1, _DRAWN_AT_ONCE // self.num_envs), self.num_envs
        self._contexts = self.np_random.choice(len(self.success), shape, p=self.prompt_probs)
        self._uniforms = self.np_random.random(shape)
        self._row = 0
        return self._contexts[0]

    def _cells(
        self, contexts: Int[Integers, " n"], actions: Int[Integers, " n"]
    ) -> Int[Integers, " n"]:
        """Return the places x·K + a in the table, or raise if an action has none."""
        try:
            if np.shape(actions) == contexts.shape:
                return np.ravel_multi_index((contexts, actions), self.success.shape)
        except (TypeError, ValueError):
            pass
        raise ValueError(
            f"actions must be {self.num_envs} integers in [0, {self.success.shape[1]}), "
            f"got {actions!r}"
        )
