"""What our own environments have in common: they render as text and take one action of a list."""

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

METADATA: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}
"""Gymnasium asks for a rate also where a frame is a line of text."""


def text_mode(render_mode: str | None) -> str | None:
    """Return the render mode, or raise if it is neither None nor "ansi"."""
    if render_mode not in (None, *METADATA["render_modes"]):
        raise ValueError(f"render_mode must be None or 'ansi', got {render_mode!r}")
    return render_mode


def one_of(space: Discrete, action: object) -> int:
    """Return the action as an int, or raise if it is none of the space."""
    if not isinstance(action, int | np.integer | np.ndarray) or not space.contains(action):
        raise ValueError(f"action must be an integer in [0, {space.n}), got {action!r}")
    return int(action)
