"""Layers with RMS norms, grouped queries, rotary positions and gated units, under the names that transformers gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...architecture import Attention, Block, Embedding, FeedForward, Layer, Mask, Rotary, Window
from ...checkpoint.tensors import Norm, TensorReader, Weight
from ..settings.reader import Config
from ..settings.values import switch

__all__ = [
    "FULL",
    "PREFIXES",
    "SLIDING",
    "UNUSED_HEADS",
    "Heading",
    "Sizes",
    "read_attention",
    "read_causal",
    "read_embedding",
    "read_feed_forward",
    "read_head_size",
    "read_kinds",
    "read_kv_heads",
    "read_layer",
    "read_rms_norm",
    "read_sizes",
    "window_mask",
    "with_head_norms",
]

#: Names of the two kinds of attention in `layer_types`.
FULL, SLIDING = "full_attention", "sliding_attention"

#: Tensors of heads that no embedding uses: the vocabulary's, and those of classifiers.
UNUSED_HEADS = ("lm_head.", "score.", "classifier.", "dense.", "qa_outputs.")

#: Prefixes that transformers gives an encoder inside a model with a head.
PREFIXES = ("model.",)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that all families of this build have.

    Attributes:
        hidden: width of a token vector.
        intermediate: width inside the feed-forward part.
        layers: number of layers.
        heads: heads of the query.
        vocabulary: rows of the word table.
        positions: `max_position_embeddings`.
        epsilon: epsilon of every norm.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Heading:
    """Attention of a layer, without its weights.

    Attributes:
        num_heads: heads of the query.
        num_kv_heads: heads of key and value.
        head_size: width of a head.
        scale: factor of the scores.
        rotary: rotary positions.
        mask: tokens that a token attends to.
        input_bias: whether the products of query, key and value have a bias.
        output_bias: whether the output's product has one.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    rotary: Rotary
    mask: Mask
    input_bias: bool = False
    output_bias: bool = False


def read_sizes(config: Config, *, positions: int, epsilon: float = 1e-6) -> Sizes:
    """Read the sizes.

    Args:
        config: configuration.
        positions: default of `max_position_embeddings`.
        epsilon: default of `rms_norm_eps`.

    Raises:
        CheckpointError: a size is missing or invalid, or transformers would not load it.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    config.ignore("attention_dropout", "pretraining_tp")
    return Sizes(
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        layers=config.integer("num_hidden_layers"),
        heads=heads,
        vocabulary=config.integer("vocab_size"),
        positions=config.integer("max_position_embeddings", positions),
        epsilon=config.number("rms_norm_eps", epsilon),
    )


def read_kv_heads(config: Config, heads: int, default: int | None) -> int:
    """Return the heads of key and value: as many as the query's if the value is null.

    Args:
        config: configuration.
        heads: heads of the query.
        default: heads of a file without the key; None for as many as the query's.

    Raises:
        CheckpointError: the query's heads are not a multiple of them.
    """
    count = config.value("num_key_value_heads", default)
    count = heads if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or heads % count:
        raise config.refusal(f"num_key_value_heads is {count!r}, which does not divide the {heads} heads of the query")
    return count


def read_head_size(config: Config, sizes: Sizes, *, divides: bool, default: int | None = None) -> int:
    """Return the width of a head: `head_dim`, or the hidden size's share if it is null, or missing without a default.

    Args:
        config: configuration.
        sizes: sizes of the model.
        divides: whether transformers needs the heads to divide the hidden size in any case.
        default: width of a file without the key.

    Raises:
        CheckpointError: the heads do not divide the hidden size.
    """
    size = config.value("head_dim", default)
    if sizes.hidden % sizes.heads and (divides or size is None):
        raise config.refusal(f"hidden_size {sizes.hidden} is not a multiple of the {sizes.heads} attention heads")
    return sizes.hidden // sizes.heads if size is None else config.integer("head_dim", default)


def read_causal(config: Config) -> bool:
    """Return `is_causal`, a key of no class that `create_causal_mask` of transformers reads; true by default."""
    return switch(config, config.file, "is_causal", True)


def window_mask(size: int, *, causal: bool, positions: int) -> Mask:
    """Return the mask of a sliding window as transformers defines it.

    A causal window counts the token itself; one in both directions has `size` tokens on each side.

    Args:
        size: `sliding_window`.
        causal: whether a token sees no later ones.
        positions: longest text; a window that it never leaves is none.
    """
    if size >= positions:
        return "causal" if causal else "full"
    return Window(size - 1, 0) if causal else Window(size, size)


def read_kinds(config: Config, layers: int, default: Sequence[str]) -> Sequence[str]:
    """Return the kind of attention of each layer, from `layer_types`.

    Args:
        config: configuration.
        layers: number of layers.
        default: kinds of a file without the key.

    Raises:
        CheckpointError: there are other kinds, or not one for each layer.
    """
    kinds = config.value("layer_types")
    if kinds is None:
        return default
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in (FULL, SLIDING) for kind in kinds):
        raise config.refusal(f"layer_types must be {layers} times {FULL} or {SLIDING}, and is {kinds!r}")
    return kinds


def read_rms_norm(tensors: TensorReader, name: str, size: int, epsilon: float, *, plus_one: bool = False) -> Norm:
    """Return the RMS norm of `NAME.weight`.

    Args:
        tensors: tensors of the checkpoint.
        name: name without `.weight`.
        size: width of the norm.
        epsilon: number added to the mean square.
        plus_one: whether the factor is 1 + weight, as in Gemma.
    """
    weight = tensors.take(f"{name}.weight", (size,))
    return Norm(_plus_one(weight) if plus_one else weight, None, epsilon, "rms_norm")


def _plus_one(weight: Weight) -> Weight:
    def load() -> NDArray[np.float32]:
        return weight.load() + np.float32(1)

    return Weight(f"{weight.name}.plus_one", weight.shape, load)


def read_embedding(tensors: TensorReader, sizes: Sizes, *, scaled: bool = False) -> Embedding:
    """Return the word table.

    Args:
        tensors: tensors of the checkpoint.
        sizes: sizes of the model.
        scaled: whether its rows are multiplied by the root of the hidden size, as in Gemma.
    """
    return Embedding(
        word=tensors.take("embed_tokens.weight", (sizes.vocabulary, sizes.hidden)),
        positions=None,
        token_type=None,
        norm=None,
        scale=math.sqrt(sizes.hidden) if scaled else None,
    )


def read_attention(tensors: TensorReader, name: str, hidden: int, heading: Heading) -> Attention:
    """Return the attention of the layer `NAME`, without norms of queries and keys."""
    widths = {"q": heading.num_heads, "k": heading.num_kv_heads, "v": heading.num_kv_heads}
    query, key, value = (
        tensors.linear(f"{name}.self_attn.{part}_proj", hidden, count * heading.head_size, bias=heading.input_bias)
        for part, count in widths.items()
    )
    width = heading.num_heads * heading.head_size
    return Attention(
        query=query,
        key=key,
        value=value,
        output=tensors.linear(f"{name}.self_attn.o_proj", width, hidden, bias=heading.output_bias),
        num_heads=heading.num_heads,
        num_kv_heads=heading.num_kv_heads,
        head_size=heading.head_size,
        scale=heading.scale,
        rotary=heading.rotary,
        mask=heading.mask,
    )


def with_head_norms(
    tensors: TensorReader, name: str, attention: Attention, epsilon: float, *, plus_one: bool = False
) -> Attention:
    """Return the attention of the layer `NAME` with the RMS norms of each head of query and key.

    Args:
        tensors: tensors of the checkpoint.
        name: prefix of the layer's tensors.
        attention: the attention without them.
        epsilon, plus_one: see `read_rms_norm`.
    """
    query_norm, key_norm = (
        read_rms_norm(tensors, f"{name}.self_attn.{part}_norm", attention.head_size, epsilon, plus_one=plus_one)
        for part in "qk"
    )
    return dataclasses.replace(attention, query_norm=query_norm, key_norm=key_norm)


def read_feed_forward(
    tensors: TensorReader, name: str, sizes: Sizes, activation: str, *, bias: bool = False
) -> FeedForward:
    """Return the gated unit of the layer `NAME`."""
    up, gate = (
        tensors.linear(f"{name}.mlp.{part}_proj", sizes.hidden, sizes.intermediate, bias=bias)
        for part in ("up", "gate")
    )
    down = tensors.linear(f"{name}.mlp.down_proj", sizes.intermediate, sizes.hidden, bias=bias)
    return FeedForward(up, down, activation, gate)


def read_layer(
    tensors: TensorReader,
    name: str,
    sizes: Sizes,
    bodies: tuple[Attention, FeedForward],
    *,
    plus_one: bool = False,
) -> Layer:
    """Return a layer of pre-norm blocks: x + body(norm(x)).

    Args:
        tensors: tensors of the checkpoint.
        name: prefix of the layer's tensors.
        sizes: sizes of the model.
        bodies: attention and feed-forward part.
        plus_one: see `read_rms_norm`.
    """
    before, between = (
        read_rms_norm(tensors, f"{name}.{norm}", sizes.hidden, sizes.epsilon, plus_one=plus_one)
        for norm in ("input_layernorm", "post_attention_layernorm")
    )
    attention, feed_forward = bodies
    return Layer(name, (Block(attention, norm_before=before), Block(feed_forward, norm_before=between)))
