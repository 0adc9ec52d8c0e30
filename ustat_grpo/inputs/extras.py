"""Libraries that only extras install: imported when they are needed, or a word how to get them."""

from importlib import import_module
from typing import Any

_EXTRAS = {
    "accelerate": "trl", "gymnasium": "environments", "hydra": "experiments", "jinja2": "lm",
    "math_verify": "llm", "matplotlib": "experiments", "pyarrow": "llm",
    "reasoning_gym": "reasoning",
    "rich": "lm", "safetensors": "lm", "torch": "lm", "transformers": "llm", "trl": "trl",
}  # fmt: skip


class MissingExtraError(ModuleNotFoundError, ValueError):
    """A library is not installed, or cannot be imported, that an extra of ours would bring.

    Whoever imports may catch it as ImportError, whoever asks as ValueError.
    """

    def __init__(self, module: str, error: ImportError) -> None:
        name = module.partition(".")[0]
        super().__init__(
            f"{name.replace('_', '-')} must be installed for this (pip install -e "
            f"'.[{_EXTRAS[name]}]' in a checkout), got: {error}",
            name=name,
        )
        self._module, self._got = module, str(error)

    def __reduce__(self) -> tuple[Any, ...]:
        """A process of a pool hands its errors on as what makes them anew."""
        return type(self), (self._module, ImportError(self._got))


def from_extra(module: str) -> Any:
    """Import a module of a library that an extra installs.

    Raises:
        MissingExtraError: if it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(module, error) from error
