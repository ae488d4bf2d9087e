"""The encoder's order of nodes, the same on every target: embedding, layers, modules.

A target brings the rows of the embedding tables, its attention and its pooling; everything between works on rows, whether
they are packed, (tokens, hidden), or lie in a rectangle, (texts, longest, hidden).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import Architecture, Attention, Block, Decoder, Embedding, Layer
from ...checkpoint.tensors import Weight
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm
from .blocks import emit_feed_forward, emit_linear
from .modules import emit_decoder, emit_modules

__all__ = ["Parts", "emit_encoder", "emit_token_types", "position_rows", "token_type_rows"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a target does in its own way.

    Attributes:
        word: the tokens' rows of the word table.
        position: adds the nodes of the tokens' rows of the position table; not asked for where the family has none.
        attend: attention of a layer: its description, the hidden states, and the name of its nodes.
        pool: one vector a text: the mode, the hidden states, and the name of the last node.
        token_type: adds the nodes of the tokens' rows of the token type table; asked for where pairs of texts come in.
        decode: adds the vocabulary's logits of the hidden states, under a name.
        sum: the sum of the tables' rows with its norm, or None where it is to be written here.
        layer: a whole layer, from its description and the hidden states, or None where the layer is to be written here.
        rows: names of the axes that count tokens: ("tokens",) packed, or texts and longest of a rectangle.
    """

    word: str
    position: Callable[[], str]
    attend: Callable[[Attention, str, str], str]
    pool: Callable[[PoolingMode, str, str], str]
    token_type: Callable[[Weight], str] | None = None
    decode: Callable[[GraphBuilder, Decoder, str, str], str] = emit_decoder
    sum: Callable[[Embedding, Parts], str | None] = lambda embedding, parts: None
    layer: Callable[[Layer, str], str | None] = lambda layer, hidden: None
    rows: tuple[int | str, ...] = ("tokens",)


def emit_encoder(
    graph: GraphBuilder, architecture: Architecture, parts: Parts, texts: int | str, dimension: int
) -> str:
    """Adds everything from the embeddings to the output, which has the name of what it is.

    `vectors`, `scores` and `sparse` are float32, (texts, dimension); `token_vectors` float32, (tokens, dimension), or (texts,
    longest, dimension) where tokens lie in a rectangle.

    Returns:
        The last hidden states, before any module.
    """
    hidden = _emit_embedding(graph, architecture.embedding, parts)
    for layer in architecture.layers:
        hidden = parts.layer(layer, hidden) or _emit_layer(graph, layer, hidden, parts)
    if architecture.final_norm is not None:
        hidden = emit_norm(graph, architecture.final_norm, hidden, "final_norm")
    value = emit_modules(graph, architecture, hidden, parts.pool, parts.decode)
    graph.node("Identity", [value], architecture.output)
    rows = parts.rows if architecture.output == "token_vectors" else (texts,)
    graph.output(TensorInfo(architecture.output, "float32", (*rows, dimension)))
    return hidden


def position_rows(graph: GraphBuilder, architecture: Architecture, shape: tuple[str, ...]) -> Callable[[], str]:
    """For `Parts.position`: rows of the position table by the input `position_ids`, which the host makes."""

    def emit() -> str:
        learned = architecture.embedding.positions
        if learned is None:
            raise ValueError(f"the family {architecture.family} has no learned positions")
        index = graph.input(TensorInfo("position_ids", "int32", shape))
        return graph.node("Gather", [graph.weight(learned.table), index], "embeddings/position")

    return emit


def token_type_rows(graph: GraphBuilder, shape: tuple[str, ...]) -> Callable[[Weight], str]:
    """For `Parts.token_type`: rows of the token type table by the input `token_type_ids`."""

    def emit(table: Weight) -> str:
        types = graph.input(TensorInfo("token_type_ids", "int32", shape))
        return graph.node("Gather", [graph.weight(table), types], "embeddings/token_type")

    return emit


def emit_token_types(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str:
    """The rows of the word table, with those of the token types that the texts tell apart."""
    if embedding.token_types is None:
        return parts.word
    if parts.token_type is None:
        raise ValueError(f"this target has no token types: {embedding.token_types.name}")
    return graph.node("Add", [parts.word, parts.token_type(embedding.token_types)], "embeddings/with_token_type")


def _emit_embedding(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str:
    hidden = parts.sum(embedding, parts) or _emit_sum(graph, embedding, parts)
    if embedding.projection is not None:
        hidden = emit_linear(graph, embedding.projection, hidden, "embeddings/projection")
    return hidden


def _emit_sum(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str:
    hidden = emit_token_types(graph, embedding, parts)
    if embedding.token_type is not None:
        hidden = graph.node("Add", [hidden, graph.weight(embedding.token_type)], "embeddings/with_token_type")
    if embedding.positions is not None:
        hidden = graph.node("Add", [hidden, parts.position()], "embeddings/sum")
    if embedding.norm is not None:
        hidden = emit_norm(graph, embedding.norm, hidden, "embeddings/norm")
    return hidden


def _emit_layer(graph: GraphBuilder, layer: Layer, hidden: str, parts: Parts) -> str:
    for block in layer.blocks:
        part = "attention" if isinstance(block.core, Attention) else "feed_forward"
        hidden = _emit_block(graph, block, hidden, parts, f"{layer.name}/{part}")
    return hidden


def _emit_block(graph: GraphBuilder, block: Block, hidden: str, parts: Parts, name: str) -> str:
    """Add a residual block. A block around another one has its own residual and norms, with `_again` after their names."""
    again = "_again" if isinstance(block.body, Block) else ""
    value = hidden
    if block.norm_before is not None:
        value = emit_norm(graph, block.norm_before, value, f"{name}/norm{again}")
    if isinstance(block.body, Block):
        value = _emit_block(graph, block.body, value, parts, name)
    elif isinstance(block.body, Attention):
        value = parts.attend(block.body, value, name)
    else:
        value = emit_feed_forward(graph, block.body, value, name)
    if block.norm_after is not None:
        value = emit_norm(graph, block.norm_after, value, f"{name}/norm_after{again}")
    value = graph.node("Add", [value, hidden], f"{name}/residual{again}")
    if block.norm_sum is not None:
        value = emit_norm(graph, block.norm_sum, value, f"{name}/norm{again}")
    return value
