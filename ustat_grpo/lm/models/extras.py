"""Modules that only the extra `llm` installs, imported where they are needed. Needs no torch."""

from importlib import import_module
from typing import Any


def from_extra(module: str) -> Any:
    """Import a module of the extra `llm`.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ValueError(
            f"{package} must be installed for this (pip install -e '.[llm]' in a checkout), "
            f"got: {error}"
        ) from error
