"""DeBERTa v2 and v3: BERT whose scores have two more products, of contents with projected distances.

mxbai-rerank-v1 and most classifiers that need no examples are such models. The projected distances depend on weights alone:
they are computed at conversion, as tables of the layers' attention.

Source: transformers' modeling_deberta_v2.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...architecture import (
    Architecture,
    Attention,
    Block,
    Disentangled,
    Embedding,
    FeedForward,
    Layer,
    LearnedPositions,
)
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import Linear, Norm, TensorReader, Weight
from ..post_norm import Sizes, read_sizes
from ..settings.reader import Config
from ..settings.values import switch

__all__ = ["describe_deberta_v2", "rows_by_distance"]

#: Keys of training, and of heads that no sentence embedding uses. The classifier reads `pooler_hidden_act`.
UNUSED = ("cls_dropout", "legacy", "pooler_dropout", "pooler_hidden_act", "summary_activation", "summary_type")


@dataclasses.dataclass(frozen=True, slots=True)
class _Distances:
    """Settings of the products with distances.

    Attributes:
        span: rows of the table for distances on one side.
        rows: row of each distance from 1 - positions to positions - 1.
        kinds: `c2p`, `p2c` or both.
        shared: whether the projections of contents project distances, too.
        normed: whether the table has a norm.
    """

    span: int
    rows: tuple[int, ...]
    kinds: frozenset[str]
    shared: bool
    normed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a model, and its products with distances if it has any."""

    sizes: Sizes
    head_size: int
    scale: float
    types: int
    absolute: bool
    distances: _Distances | None


def describe_deberta_v2(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: deberta-v2`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    shape = _read_shape(Config(checkpoint))
    sizes, distances = shape.sizes, shape.distances
    tensors = TensorReader(checkpoint, prefixes=("deberta.",))
    embedding = _read_embedding(tensors, shape)
    table = None if distances is None else _read_table(tensors, sizes, distances)
    layers = tuple(_read_layer(tensors, shape, table, f"encoder.layer.{index}") for index in range(sizes.layers))
    # A buffer and heads; a table of positions that published files have and the class does not read; its classifier's pooler.
    tensors.ignore("embeddings.position_ids", "cls.", "lm_predictions.", "mask_predictions.")
    tensors.ignore("pooler.", "classifier.", "qa_outputs.", "deberta.embeddings.position_ids")
    if not shape.absolute:
        tensors.ignore("embeddings.position_embeddings.")
    tensors.finish()
    return Architecture("deberta-v2", sizes.hidden, embedding, layers, max_positions=sizes.positions)


def rows_by_distance(positions: int, buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Return the row of the table for each distance query - key from 1 - positions to positions - 1.

    Distances up to half of the buckets have a row each; the other rows stand for ranges that grow logarithmically up to
    `max_distance`. The computation is in float32 as in transformers, because rounding decides at a boundary.

    Args:
        positions: longest text.
        buckets: rows for distances on one side, 0 for a row for each distance.
        max_distance: largest distance.

    Source: `make_log_bucket_position` and `disentangled_attention_bias` in transformers' modeling_deberta_v2.py.
    """
    distances = np.arange(1 - positions, positions, dtype=np.int64)
    span = max_distance
    if buckets > 0:
        span, middle = buckets, buckets // 2
        size = np.abs(distances)
        large = np.where(size < middle, middle - 1, size)
        ratio = np.float32((max_distance - 1) / middle)
        logarithm = np.log(large.astype(np.float32) / np.float32(middle)) / np.log(ratio)
        far = np.ceil(logarithm * np.float32(middle - 1)) + np.float32(middle)
        distances = np.where(large <= middle, distances, (far * np.sign(distances)).astype(np.int64))
    rows: NDArray[np.int64] = np.clip(distances + span, 0, 2 * span - 1)
    return rows


def _read_shape(config: Config) -> _Shape:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    sizes = dataclasses.replace(read_sizes(config), epsilon=config.number("layer_norm_eps", 1e-7))
    head_size = hidden // heads
    config.must_be("attention_head_size", head_size)
    types = config.count("type_vocab_size", 0)
    absolute = switch(config, config.file, "position_biased_input", True)
    config.must_be("embedding_size", hidden)
    config.must_be("pooler_hidden_size", hidden)
    config.must_be("conv_kernel_size", 0)
    config.ignore("conv_act", "conv_groups", *UNUSED)
    kinds = _kinds(config)
    distances = _distances(config, sizes, kinds)
    config.finish()
    scale = 1 / math.sqrt(head_size * (1 + len(kinds)))
    return _Shape(sizes, head_size, scale, types, absolute, distances)


def _kinds(config: Config) -> frozenset[str]:
    """Return the kinds of products with distances; a word that the class does not know is none."""
    value = config.value("pos_att_type")
    words = value.lower().split("|") if isinstance(value, str) else [] if value is None else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise config.refusal(f"pos_att_type is {value!r}, where a list of words was expected")
    return frozenset(word.strip() if isinstance(value, str) else word for word in words) & {"c2p", "p2c"}


def _distances(config: Config, sizes: Sizes, kinds: frozenset[str]) -> _Distances | None:
    relative = switch(config, config.file, "relative_attention", False)
    shared = switch(config, config.file, "share_att_key", False)
    norm = config.value("norm_rel_ebd", "none")
    buckets, largest = config.value("position_buckets", -1), config.value("max_relative_positions", -1)
    if not isinstance(norm, str):
        raise config.refusal(f"norm_rel_ebd is {norm!r}, where a text was expected")
    for key, value in (("position_buckets", buckets), ("max_relative_positions", largest)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise config.refusal(f"{key} is {value!r}, where an integer was expected")
    if not relative:
        if kinds:  # the class scales by their number, and leaves them out
            raise config.refusal("pos_att_type names products with distances, and relative_attention is false")
        return None
    if not kinds:
        raise config.refusal("relative_attention is true, and pos_att_type names neither c2p nor p2c")
    largest = sizes.positions if largest < 1 else largest
    if buckets > 0 and (buckets < 4 or largest - 1 <= buckets // 2):
        raise config.refusal(
            f"position_buckets is {buckets}, which leaves no distances up to {largest} for the ranges that grow"
        )
    rows = rows_by_distance(sizes.positions, max(buckets, 0), largest)
    normed = "layer_norm" in [word.strip() for word in norm.lower().split("|")]
    return _Distances(buckets if buckets > 0 else largest, tuple(rows.tolist()), kinds, shared, normed)


def _read_embedding(tensors: TensorReader, shape: _Shape) -> Embedding:
    sizes, table = shape.sizes, "embeddings.token_type_embeddings.weight"
    positions = None
    if shape.absolute:
        name = "embeddings.position_embeddings.weight"
        positions = LearnedPositions(tensors.take(name, (sizes.positions, sizes.hidden)))
    return Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (sizes.vocabulary, sizes.hidden)),
        positions=positions,
        token_type=tensors.row(table, (shape.types, sizes.hidden), 0) if shape.types else None,
        norm=tensors.norm("embeddings.LayerNorm", sizes.hidden, sizes.epsilon),
    )


def _read_table(tensors: TensorReader, sizes: Sizes, distances: _Distances) -> Callable[[], NDArray[np.float64]]:
    """Return a function that reads the table of distances with its norm, (2 · span, hidden)."""
    table = tensors.take("encoder.rel_embeddings.weight", (2 * distances.span, sizes.hidden))
    norm = tensors.norm("encoder.LayerNorm", sizes.hidden, sizes.epsilon) if distances.normed else None
    return lambda: _normed(table.load().astype(np.float64), norm)


def _normed(rows: NDArray[np.float64], norm: Norm | None) -> NDArray[np.float64]:
    if norm is None:
        return rows
    centered = rows - rows.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(axis=1, keepdims=True) + norm.epsilon)
    shift = 0 if norm.bias is None else norm.bias.load()
    result: NDArray[np.float64] = centered / deviation * norm.weight.load() + shift
    return result


def _read_layer(
    tensors: TensorReader, shape: _Shape, table: Callable[[], NDArray[np.float64]] | None, name: str
) -> Layer:
    sizes, width = shape.sizes, shape.sizes.hidden
    prefix = f"{name}.attention.self"
    query, key, value = (
        tensors.linear(f"{prefix}.{part}_proj", sizes.hidden, width) for part in ("query", "key", "value")
    )
    disentangled = None
    if table is not None and shape.distances is not None:
        distances = shape.distances

        def project(kind: str, shared: Linear, own: str) -> Weight | None:
            if kind not in distances.kinds:
                return None
            linear = shared if distances.shared else tensors.linear(f"{prefix}.{own}", sizes.hidden, width)
            return _projected(f"{prefix}.{kind}", table, linear, shape)

        disentangled = Disentangled(
            "rel_embeddings",
            distances.rows,
            keys=project("c2p", key, "pos_key_proj"),
            queries=project("p2c", query, "pos_query_proj"),
        )
    attention = Attention(
        query=query,
        key=key,
        value=value,
        output=tensors.linear(f"{name}.attention.output.dense", width, sizes.hidden),
        num_heads=sizes.heads,
        num_kv_heads=sizes.heads,
        head_size=shape.head_size,
        scale=shape.scale,
        disentangled=disentangled,
    )
    feed_forward = FeedForward(
        up=tensors.linear(f"{name}.intermediate.dense", sizes.hidden, sizes.intermediate),
        down=tensors.linear(f"{name}.output.dense", sizes.intermediate, sizes.hidden),
        activation=sizes.activation,
    )
    norms = (
        tensors.norm(f"{name}.{part}.LayerNorm", sizes.hidden, sizes.epsilon) for part in ("attention.output", "output")
    )
    attended, widened = norms
    return Layer(name, (Block(attention, norm_sum=attended), Block(feed_forward, norm_sum=widened)))


def _projected(name: str, table: Callable[[], NDArray[np.float64]], linear: Linear, shape: _Shape) -> Weight:
    """Return the projected table of distances times the scale of the scores, (heads, rows, head_size)."""
    assert shape.distances is not None
    heads, rows, size = shape.sizes.heads, 2 * shape.distances.span, shape.head_size

    def load() -> NDArray[np.float32]:
        bias = 0 if linear.bias is None else linear.bias.load()
        projected = (table() @ linear.weight.load().astype(np.float64) + bias) * shape.scale
        by_heads = projected.reshape(rows, heads, size).transpose(1, 0, 2)
        return np.ascontiguousarray(by_heads, np.float32)

    return Weight(name, (heads, rows, size), load)
