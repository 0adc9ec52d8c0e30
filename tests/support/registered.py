"""Environments of Gymnasium by name: which version there is depends on the installation."""

from __future__ import annotations

import gymnasium
import pytest


def newest(name: str) -> str:
    """Return the id of the newest version of an environment, such as Taxi-v3 or Taxi-v4."""
    versions = [each.version for each in gymnasium.registry.values() if each.name == name]
    return f"{name}-v{max(version for version in versions if version is not None)}"


def made(name: str, **options: object) -> gymnasium.Env:
    """Make the newest version of an environment; skip where it has no such options yet."""
    try:
        return gymnasium.make(newest(name), **options)
    except TypeError as error:
        pytest.skip(f"{name} has other options in this Gymnasium: {error}")
