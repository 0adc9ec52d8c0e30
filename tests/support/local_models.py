"""Tiny causal models with random weights and their tokenizers, in folders as users have them."""

from pathlib import Path
from typing import Any

import torch

LETTERS = "0123456789+-*/()=. \n" + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:,\\{}^$#"
END = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 64


def save_tokenizer(folder: Path, *, chat: bool = False, letters: str = LETTERS) -> int:
    """Save a byte-level tokenizer that knows some letters only; return its size."""
    from transformers import Qwen2Tokenizer

    marks = ["<|endoftext|>", "<|im_start|>", END]
    byte = {" ": "Ġ", "\n": "Ċ"}
    vocabulary = [byte.get(letter, letter) for letter in letters] + marks
    tokenizer = Qwen2Tokenizer(
        vocab={token: place for place, token in enumerate(vocabulary)},
        merges=[],
        eos_token=END,
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


SIZES = {
    "vocab_size": 0,  # of the tokenizer
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": None,
}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 64}
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DECODER = {"is_decoder": True, "intermediate_size": 64}
BART = {
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "init_std": 0.3,
}
OF_KINDS: dict[str, dict[str, Any]] = {
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 6},
    "gemma": GROUPED | {"head_dim": 8},
    "gemma2": GROUPED | {"head_dim": 8},
    "gemma3_text": GROUPED | {"head_dim": 8},
    "phi": GROUPED,
    "phi3": GROUPED | {"pad_token_id": None},
    "gpt_neox": {"intermediate_size": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    "mixtral": GROUPED | {"num_local_experts": 4},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": EXPERTS | {"head_dim": 8},
    "gpt_oss": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "bert": DECODER,
    "roberta": DECODER,
    "bart": BART,
    "pegasus": BART,
}
"""What kinds of models need beside `SIZES`, or have otherwise."""


def tiny(kind: str, vocabulary_size: int, **other: Any) -> Any:
    """Return a random model of two layers; its weights are large enough to have opinions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = SIZES | {"vocab_size": vocabulary_size, "eos_token_id": vocabulary_size - 1}
    if kind != "bloom":  # which sets no limit
        sizes |= {"max_position_embeddings": CONTEXT}
    with torch.random.fork_rng():
        torch.manual_seed(20260301)
        config = AutoConfig.for_model(kind, **sizes | OF_KINDS.get(kind, {}) | other)
        return AutoModelForCausalLM.from_config(config)


def save_policy(folder: Path, *, kind: str = "qwen2", chat: bool = False) -> Path:
    """Save a model and its tokenizer; return the folder."""
    model: Any = tiny(kind, save_tokenizer(folder, chat=chat))
    model.save_pretrained(folder)
    return folder


def save_digit_writer(folder: Path) -> Path:
    """Save a random model that likes digits, with room for instructions; return the folder.

    Of one layer, since the questions it is asked are long.
    """
    size = save_tokenizer(folder, chat=True)
    model: Any = tiny("qwen2", size, num_hidden_layers=1, num_attention_heads=2)
    model.config.max_position_embeddings = 512
    with torch.no_grad():  # a constant part of every state, and tokens that gain by it
        model.get_input_embeddings().weight[:, 0] = 6.0
        model.lm_head.weight[:10, 0] += 1.0
        model.lm_head.weight[-1, 0] += 1.0
    model.save_pretrained(folder)
    return folder
