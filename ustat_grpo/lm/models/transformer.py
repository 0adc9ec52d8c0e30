"""A small decoder-only transformer: pre-norm, causal attention with a cache, learned positions."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ustat_grpo.inputs.checks import integer
from ustat_grpo.lm.language_model import KeysAndValues, ended_by, last_of, places_of
from ustat_grpo.lm.models.tokenizer import END


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a transformer; by default about 10⁵ parameters.

    Args:
        vocabulary_size: number of tokens.
        context_length: the most tokens of prompt and output together.
        width: of the residual stream.
        num_layers: attention and feed-forward blocks.
        num_heads: of each attention; divides the width.
        hidden_width: of the feed-forward blocks.
        tied: whether the output layer is the token embedding.

    Raises:
        ValueError: if a size is no positive integer, or heads do not divide the width.

    Examples:
        >>> from ustat_grpo.lm import TransformerShape
        >>> shape = TransformerShape(vocabulary_size=20, width=16, num_heads=2)
        >>> shape.width // shape.num_heads, shape.num_layers
        (8, 2)
    """

    vocabulary_size: int
    context_length: int = 32
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    hidden_width: int = 256
    tied: bool = False

    def __post_init__(self) -> None:
        """Check the sizes."""
        for entry in fields(self):
            if entry.name != "tied":
                integer(entry.name, getattr(self, entry.name))
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide the width {self.width}, got {self.num_heads}")


class Transformer(nn.Module):
    """An autoregressive policy; meets `ustat_grpo.lm.LanguageModel`.

    Args:
        shape: the sizes.
        end_token: the token that ends an output.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import Prompts, Transformer, TransformerShape
        >>> policy = Transformer(TransformerShape(vocabulary_size=6, width=8, num_heads=2))
        >>> prompts = Prompts.of([[2, 3], [4]], pad_token=0)
        >>> logits, cache = policy(prompts.tokens, prompts.real)
        >>> tuple(logits.shape)  # 2 prompts, 2 places, 6 tokens
        (2, 2, 6)
    """

    def __init__(self, shape: TransformerShape, end_token: int = END) -> None:
        """Create the layers with PyTorch's own initialisation, smaller where residuals add up."""
        super().__init__()
        self.shape = shape
        self.end_token = end_token
        self.tokens: nn.Embedding = nn.Embedding(shape.vocabulary_size, shape.width)
        self.positions: nn.Embedding = nn.Embedding(shape.context_length, shape.width)
        blocks = [_Block(shape) for _ in range(shape.num_layers)]
        self.blocks: nn.ModuleList = nn.ModuleList(blocks)
        self.norm: nn.RMSNorm = nn.RMSNorm(shape.width, eps=1e-6)
        self.head: nn.Linear = nn.Linear(shape.width, shape.vocabulary_size, bias=False)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02**0.5 if shape.tied else 0.5)
        if shape.tied:
            self.head.weight = self.tokens.weight

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and output together."""
        return self.shape.context_length

    def ended(self, outputs: Int[Tensor, "n t"]) -> Bool[Tensor, " n"]:
        """Say which outputs end with the last of their tokens."""
        return ended_by(self.end_token, outputs)

    def forward(
        self,
        tokens: Int[Tensor, "n t"],
        real: Bool[Tensor, "n s"],
        cache: KeysAndValues | None = None,
        *,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "n t v"], KeysAndValues]:
        """Return logits and the longer cache; see `LanguageModel.__call__`.

        Raises:
            ValueError: if the tokens are more than the context holds.
        """
        new, total = tokens.shape[-1], real.shape[-1]
        places = places_of(real, new, self.context_length)
        causal = torch.ones(new, total, dtype=torch.bool, device=real.device).tril(total - new)
        itself = torch.eye(new, total, dtype=torch.bool, device=real.device).roll(total - new, -1)
        # Padding sees itself, so that no softmax is over nothing; nothing real sees padding.
        visible = (causal & real[..., None, :]) | itself
        stream = self.tokens(tokens) + self.positions(places)
        longer = []
        for layer, block in enumerate(self.blocks):
            stream, layer_cache = block(stream, visible[..., None, :, :], cache and cache[layer])
            longer.append(layer_cache)
        # Cut behind the head, which costs little: whatever `last` is, gradients keep every bit.
        return last_of(self.head(self.norm(stream)), last), tuple(longer)

    def select(self, cache: KeysAndValues, rows: Int[Tensor, " m"]) -> KeysAndValues:
        """Return the cache of some rows."""
        return tuple((keys[rows], values[rows]) for keys, values in cache)


class _Block(nn.Module):
    """Attention, then a feed-forward network, each added to the stream after a norm."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.mix = nn.Linear(shape.width, shape.width, bias=False)
        self.feed_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.widen = nn.Linear(shape.width, shape.hidden_width, bias=False)
        self.narrow = nn.Linear(shape.hidden_width, shape.width, bias=False)
        with torch.no_grad():
            for layer in (self.mix, self.narrow):
                layer.weight /= (2 * shape.num_layers) ** 0.5

    def forward(
        self, stream: Tensor, visible: Tensor, cache: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        split = self.qkv(self.attention_norm(stream)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = split.transpose(-2, -4).unbind(-3)
        if cache is not None:
            key = torch.cat([cache[0], key], dim=-2)
            value = torch.cat([cache[1], value], dim=-2)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        stream = stream + self.mix(seen.transpose(-2, -3).flatten(-2))
        stream = stream + self.narrow(functional.gelu(self.widen(self.feed_norm(stream))))
        return stream, (key, value)
