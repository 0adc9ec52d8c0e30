"""Transformers on disk: weights and shape in one safetensors file; and those that are shipped."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ustat_grpo.inputs.files import write_whole
from ustat_grpo.lm.models.transformer import Transformer, TransformerShape

SKILLS = ("beginner", "intermediate", "advanced")
"""The shipped policies for `ustat_grpo.arithmetic.problems.RANGES`, in order of rising accuracy."""

_FOLDER = Path(__file__).parents[1] / "policies"
_SHAPE, _END = "shape", "end_token"


def save_policy(model: Transformer, path: Path) -> None:
    """Write a transformer whole or not at all.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from ustat_grpo.lm import Transformer, TransformerShape, load_policy, save_policy
        >>> policy = Transformer(TransformerShape(vocabulary_size=6, width=8, num_heads=2))
        >>> with TemporaryDirectory() as folder:
        ...     save_policy(policy, Path(folder) / "policy.safetensors")
        ...     again = load_policy(Path(folder) / "policy.safetensors")
        >>> bool((again.head.weight == policy.head.weight).all())
        True
    """
    weights = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    if model.shape.tied:
        del weights["head.weight"]  # the same tensor as the token embedding
    metadata = {_SHAPE: json.dumps(asdict(model.shape)), _END: str(model.end_token)}
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    content = save(whole, metadata)  # in memory: its own way of writing hides what the disk says
    write_whole(path, lambda partial: partial.write_bytes(content))


def load_policy(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Read a transformer that `save_policy` wrote.

    Raises:
        ValueError: if there is no such file, it is none of ours, or its weights do not fit the
            shape that it states.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from ustat_grpo.lm import load_policy, save_policy, shipped_policy
        >>> with TemporaryDirectory() as folder:
        ...     save_policy(shipped_policy("beginner"), Path(folder) / "mine.safetensors")
        ...     policy = load_policy(Path(folder) / "mine.safetensors", dtype=torch.float64)
        >>> policy.shape.num_layers, policy.head.weight.dtype
        (3, torch.float64)
    """
    if not path.is_file():
        raise ValueError(f"path must be a safetensors file, got {path} (no such file)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path must be a safetensors file, got {path} ({error})") from None
    try:
        shape = TransformerShape(**json.loads(metadata[_SHAPE]))
        end_token = int(metadata[_END])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"path must be a file that save_policy wrote, got {path} ({error!r} in its metadata)"
        ) from None
    model = Transformer(shape, end_token).to(dtype)  # before the weights, which lose no digit so
    if shape.tied:
        weights["head.weight"] = weights.get("tokens.weight", torch.empty(0))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[1].strip()
        raise ValueError(f"weights in {path} must fit its {shape}, got: {mismatch}") from None
    return model.to(device)


def shipped_policy(
    skill: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Return one of the policies that come with the package.

    Raises:
        ValueError: if `skill` is none of `SKILLS`.

    Examples:
        >>> from ustat_grpo.lm import shipped_policy
        >>> policy = shipped_policy("intermediate")
        >>> round(sum(parameter.numel() for parameter in policy.parameters()), -4)  # weights
        120000
    """
    if skill not in SKILLS:
        raise ValueError(f"skill must be one of {', '.join(SKILLS)}, got {skill!r}")
    return load_policy(_FOLDER / f"{skill}.safetensors", device=device, dtype=dtype)
