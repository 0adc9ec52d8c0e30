"""Causal language models of `transformers`, from local files, behind our own interface.

Needs the extra `llm`; nothing is downloaded.
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ustat_grpo.inputs.checks import real
from ustat_grpo.inputs.extras import from_extra
from ustat_grpo.lm.language_model import (
    KeysAndValues,
    Prompts,
    chosen_device,
    ended_by,
    last_of,
    places_of,
)
from ustat_grpo.lm.models.chat_templates import chat_prompt, try_out
from ustat_grpo.lm.models.conversation import USUAL, Conversation
from ustat_grpo.lm.models.self_checks import inconsistency

DTYPES = ("float32", "bfloat16", "float16")
"""Half precision halves the memory; float64 is left out, since inside it is float32 in places."""

NEEDED = ("input_ids", "attention_mask", "past_key_values", "use_cache")
"""What every model that we can use takes."""

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def understood(
    names: Collection[str], places: Int[Tensor, "n t"], last: int | None
) -> dict[str, Any]:
    """Return the arguments for places and the number of logits, as far as a model has them.

    Models that do not take places read them off the mask.
    """
    options = {"position_ids": places, "logits_to_keep": last or 0}  # 0 keeps all
    return {name: value for name, value in options.items() if name in names}


class HuggingFaceModel(nn.Module):
    """Any causal model of `transformers` with attention; meets `ustat_grpo.lm.LanguageModel`.

    It is put into evaluation mode, so without dropout, and gradient checkpointing is switched off.
    Then it reads 47 tokens, to see that padding and cache change nothing; see `self_checks`.

    Args:
        model: a `transformers` model, such as `AutoModelForCausalLM` loads.
        end_token: the token that ends an output.
        temperature: outputs are drawn from softmax(logits/temperature), and scored so.
        stopped: says of outputs, shape (n, t), which end with their last token for another reason,
            such as `HuggingFaceTokenizer.stopped`; None knows no other reason.

    Raises:
        ValueError: if the model is no decoder alone, keeps no keys and values of all tokens, as a
            recurrent one, or gives other logits to a token for what comes later, for padding, or
            for what stands in a cache.
    """

    def __init__(
        self,
        model: Any,
        *,
        end_token: int,
        temperature: float = 1.0,
        stopped: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Check that the cache can be cut into rows, and switch off what is random."""
        super().__init__()
        self.model = model
        self.eval()
        self.end_token = end_token
        self._stopped = stopped
        self.temperature = 1.0  # while the model is compared with the library's
        library = from_extra("transformers.cache_utils")
        known = (library.DynamicLayer, library.DynamicSlidingWindowLayer)
        layers = library.DynamicCache(config=model.config).layers
        others = {type(layer).__name__ for layer in layers if type(layer) not in known}
        if others:
            raise ValueError(
                "model must keep the keys and values of every layer in its cache, "
                f"got {model.config.model_type} with {sorted(others)}"
            )
        self._understood = signature(model.forward).parameters.keys()
        _require_decoder(model, self._understood)
        model.activation_checkpointing_disable()
        self._new_cache, self._new_layer = library.DynamicCache, library.DynamicLayer
        self._require_consistent()
        self.temperature = real("temperature", temperature, above=0.0)

    def ended(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs end with the last of their tokens."""
        ended = ended_by(self.end_token, outputs)
        return ended if self._stopped is None else ended | self._stopped(outputs)

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and output together; huge if the model sets no limit.

        A LongRoPE model turns the places of *all* tokens by other factors as soon as one text of a
        batch is longer than it was trained on at first, and no cache can follow: its context ends
        there.
        """
        return self._limits()[0]

    @property
    def context_reason(self) -> str:
        """Why the context ends before the model's own, for errors; empty if it does not."""
        return self._limits()[1]

    def _limits(self) -> tuple[int, str]:
        config = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
        switch = min(_switches(getattr(config, "rope_parameters", None) or {}), default=limit)
        if switch >= limit:
            return limit, ""
        return switch, f" (of {limit}, since LongRoPE turns all places otherwise behind them)"

    def _require_consistent(self) -> None:
        """Raise unless the model says the same however it reads; see `self_checks`."""
        kind = self.model.config.model_type
        try:
            size = self.model.config.get_text_config(decoder=True).vocab_size
            wrong = inconsistency(self, self._whole, self.model, vocabulary_size=size)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of many kinds, by model
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                "model must read tokens in batches, padded and with a cache, "
                f"got {kind} that cannot ({type(error).__name__}: {reason})"
            ) from error
        if wrong:
            raise ValueError(
                f"model must give {wrong.requirement}, got {kind} with log-probabilities off by "
                f"{wrong.deviation:.2g} of their spread, where rounding explains "
                f"{wrong.rounding:.2g}"
            )

    def _whole(self, tokens: Int[Tensor, " t"]) -> Float[Tensor, "t v"]:
        """Return the logits of one sequence as the library itself works them out."""
        output = self.model(
            input_ids=tokens[None],
            attention_mask=torch.ones_like(tokens)[None],
            past_key_values=None,
            use_cache=False,
        )
        return output.logits[0].float()

    def forward(
        self,
        tokens: Int[Tensor, "n t"],
        real: Bool[Tensor, "n s"],
        cache: KeysAndValues | None = None,
        *,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "n t v"], KeysAndValues]:
        """Return logits/temperature, in single precision at least, and the longer cache.

        The given cache is not changed. See `LanguageModel.__call__`.

        Raises:
            ValueError: if the tokens are more than the context holds.
        """
        places = places_of(real, tokens.shape[-1], self.context_length)
        with _contiguous_input(getattr(self.model, "get_output_embeddings", lambda: None)()):
            output = self.model(
                input_ids=tokens,
                attention_mask=real.long(),
                past_key_values=self._unpacked(cache or ()),
                use_cache=True,
                **understood(self._understood, places, last),
            )
        longer = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
        logits = last_of(output.logits, last).float()
        return logits if self.temperature == 1 else logits / self.temperature, longer

    def select(self, cache: KeysAndValues, rows: Int[Tensor, " m"]) -> KeysAndValues:
        """Return the cache of some rows, which may repeat."""
        return tuple((keys[rows], values[rows]) for keys, values in cache)

    def _unpacked(self, cache: KeysAndValues) -> Any:
        """Return a cache of the library; it grows by new tensors, so the given ones stay.

        Its layers hold all tokens, also of sliding windows, which the masks then cut out.
        """
        unpacked = self._new_cache()
        for keys, values in cache:
            layer = self._new_layer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            unpacked.layers.append(layer)
        return unpacked


@contextmanager
def _contiguous_input(head: Any) -> Iterator[None]:
    """Let a head read the last tokens of all rows as one matrix.

    As a slice of all tokens they are a batch of matrices, and for each of them the vocabulary's
    weights are read again: several times the cost on a CPU.
    """
    if head is None:
        yield
        return

    def copied(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in args)

    hook = head.register_forward_pre_hook(copied)
    try:
        yield
    finally:
        hook.remove()


def _require_decoder(model: Any, names: Collection[str]) -> None:
    """Raise unless a model is a decoder alone, and takes what we hand it."""
    kind = model.config.model_type
    if model.config.is_encoder_decoder:
        raise ValueError(f"model must be a decoder alone, got {kind} with an encoder")
    lacking = [name for name in NEEDED if name not in names]
    if lacking:
        raise ValueError(
            "model must take a mask and a cache of keys and values, "
            f"got {kind} whose forward has no {' and no '.join(lacking)}"
        )


def _switches(rope: dict[str, Any]) -> Iterator[int]:
    """Yield the lengths behind which places are turned otherwise, of all kinds of layers."""
    if rope.get("rope_type") == "longrope":
        yield rope["original_max_position_embeddings"]
    for value in rope.values():
        if isinstance(value, dict):  # one for each kind of layer
            yield from _switches(value)


@dataclass(frozen=True, eq=False)
class HuggingFaceTokenizer:
    """A tokenizer of `transformers` as ours: prompts padded on the left, outputs as text.

    Args:
        tokenizer: such as `AutoTokenizer` loads.
        conversation: how prompts are put, and what ends an output beside the end token.

    Raises:
        ValueError: if the tokenizer has no end token, or its template fails or does not end.
    """

    tokenizer: Any
    conversation: Conversation = USUAL

    def __post_init__(self) -> None:
        """Check that there is an end token, and try the template."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an eos_token, got None")
        if self._has_template:
            try_out(self.tokenizer, "1+2", self.conversation.system)
        elif self.conversation.system is not None:
            raise ValueError(
                "tokenizer must have a chat template that says what the system says, got none for "
                f"{self.conversation.system!r}"
            )

    @property
    def _has_template(self) -> bool:
        return self.conversation.chat and bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def end_token(self) -> int:
        """The token that ends an output."""
        return self.tokenizer.eos_token_id

    @property
    def pad_token(self) -> int:
        """The token that stands where there is none; what is padding, the masks say."""
        pad = self.tokenizer.pad_token_id
        return self.end_token if pad is None else pad

    def require(self, text: str) -> None:
        """Raise unless a text survives encoding: spaces and unusual characters may get lost.

        Args:
            text: what must survive, such as all characters that answers consist of.

        Raises:
            ValueError: if it does not come back; the error quotes the lost characters.
        """
        back = self.decode(self.tokenizer.encode(text, add_special_tokens=False), whole=True)
        wanted, returned = (unicodedata.normalize("NFC", each.strip()) for each in (text, back))
        if wanted != returned:
            lost = "".join(sorted(Counter(wanted) - Counter(returned)))
            what = f"lost are {lost!r}" if lost else f"they come back as {returned[:80]!r}"
            raise ValueError(
                f"tokenizer must keep the characters of a text, got {wanted[:80]!r}: {what}"
            )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            ValueError: if the tokenizer loses characters of it, or the template fails or does not
                end.
        """
        self.require(text)
        if not self._has_template:
            tokens = self.tokenizer.encode(text)
            return tokens[:-1] if tokens[-1:] == [self.end_token] else tokens
        said = chat_prompt(self.tokenizer, text, self.conversation.system)
        said += self.conversation.prefill
        return self.tokenizer.encode(said, add_special_tokens=False)

    def decode(self, tokens: Iterable[int], *, whole: bool = False) -> str:
        """Return the text before what ends an output, or all of it; special tokens are no text."""
        kept = list(tokens)
        if not whole and self.end_token in kept:
            kept = kept[: kept.index(self.end_token)]
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        text = self.tokenizer.decode(kept, **how)
        return text if whole else self.conversation.before_stop(text)

    def stopped(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs hold a text that ends them; equal ends are read once."""
        ends = outputs[:, -(self.conversation.longest_stop + 1) :]
        distinct, row = torch.unique(ends, dim=0, return_inverse=True)
        texts = (self.decode(tokens, whole=True) for tokens in distinct.tolist())
        found = torch.tensor([self.conversation.has_stop(text) for text in texts])
        return found.to(outputs.device)[row]

    def prompts(self, texts: Sequence[str]) -> Prompts:
        """Return several texts as left-padded prompts.

        Raises:
            ValueError: if there are none, one is empty, or the tokenizer loses characters.
        """
        return Prompts.of([self.encode(text) for text in texts], pad_token=self.pad_token)


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    conversation: Conversation = USUAL,
    name: str = "path",
) -> tuple[HuggingFaceModel, HuggingFaceTokenizer]:
    """Load a model and its tokenizer from a folder, as `save_pretrained` writes it.

    The tokenizer's end token ends outputs, also if the model knows others.

    Args:
        path: the folder.
        dtype: of the parameters, one of `DTYPES`; logits are float32 in any case.
        device: such as `cpu` or `cuda`; `auto` is `cuda` if there is one.
        conversation: how prompts are put, tokens drawn, and outputs ended.
        name: what an error calls the path.

    Raises:
        ValueError: if a file is missing or damaged, `dtype` or `device` is unknown, or the extra
            `llm` is not installed.
    """
    folder = Path(path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    place = chosen_device(device)
    _require_files(folder, name)
    tokenizer = _load_tokenizer(folder, conversation, name)
    model = _load_model(folder, getattr(torch, dtype), name)
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer.tokenizer) > known:
        raise ValueError(
            f"{name} must hold a tokenizer with at most the model's {known} tokens, "
            f"got {folder} with {len(tokenizer.tokenizer)}"
        )
    policy = HuggingFaceModel(
        model.to(place),
        end_token=tokenizer.end_token,
        temperature=conversation.temperature,
        stopped=tokenizer.stopped if conversation.stop else None,
    )
    return policy, tokenizer


def _load_tokenizer(folder: Path, conversation: Conversation, name: str) -> HuggingFaceTokenizer:
    auto = from_extra("transformers").AutoTokenizer
    return _read(
        lambda: HuggingFaceTokenizer(
            auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            conversation,
        ),
        f"{name} must hold a tokenizer that can be read, got {folder}",
    )


def _load_model(folder: Path, dtype: torch.dtype, name: str) -> Any:
    auto = from_extra("transformers").AutoModelForCausalLM
    requirement = f"{name} must hold a causal model that can be read, got {folder}"
    model, report = _read(
        lambda: auto.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
        requirement,
    )
    missing = sorted(report["missing_keys"])
    if missing:  # the library would leave them random
        raise ValueError(f"{requirement} ({len(missing)} weights are not there: {missing[0]}, …)")
    return model


def _read(reading: Callable[[], Any], requirement: str) -> Any:
    """Return what a reading returns; its errors, of whatever kind, become one line."""
    try:
        return reading()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{requirement} ({type(error).__name__}: {reason})") from error


def _require_files(folder: Path, name: str) -> None:
    """Raise unless a folder has the files of a model and a tokenizer."""
    requirement = f"{name} must be a folder with config.json, {WEIGHTS[0]} and {TOKENIZERS[0]}"
    if not folder.is_dir():
        raise ValueError(f"{requirement}, got {folder} (no such folder)")
    for names in (("config.json",), WEIGHTS, TOKENIZERS):
        if not any((folder / each).is_file() for each in names):
            raise ValueError(f"{requirement}, got {folder} (no {names[0]})")
