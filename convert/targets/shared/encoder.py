"""Nodes of the encoder in the order of all targets: embedding, layers, modules.

A target provides the rows of the embedding tables, its attention and its pooling. The nodes between them work on rows,
packed, (tokens, hidden), or in a rectangle, (texts, longest, hidden).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import (
    Architecture,
    Attention,
    Block,
    Decoder,
    Embedding,
    EmbeddingGate,
    Experts,
    FeedForward,
    Layer,
    ShortConvolution,
)
from ...checkpoint.tensors import Weight
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm
from .blocks import emit_embedding_gate, emit_feed_forward, emit_linear
from .convolutions import Convolve
from .experts import emit_all_experts
from .modules import emit_decoder, emit_layer_average, emit_modules, emit_token_output
from .pooling import Pool, PooledRows, keep_rows, mixes_tokens, pooled_mode

__all__ = ["PARTS", "Attend", "Parts", "emit_encoder", "emit_token_types", "position_rows", "token_type_rows"]

#: Adds an attention up to its context, (tokens, heads · head_size): attention, hidden states, prefix of the nodes' names, and
#: for the last layer maybe the rows that are pooled, the only ones of the context then.
Attend = Callable[[Attention, str, str, PooledRows | None], str]


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of the encoder that a target emits in its own way.

    Attributes:
        word: name of the tokens' rows of the word table.
        position: adds the tokens' rows of the position table; called only for families that have one.
        attend: adds the attention of a layer up to its context.
        pool: adds one vector per text.
        token_type: adds the tokens' rows of the token type table; called only for models that take pairs of texts.
        decode: adds the vocabulary's logits of the hidden states, under a name.
        sum: adds the sum of the tables' rows with its norm, or returns None for the common nodes.
        feed_forward: adds a feed-forward part: graph, part, hidden states, and the prefix of the nodes' names.
        experts: adds a feed-forward part of several experts: graph, part, hidden states, and the prefix of the nodes' names.
        layer: adds a whole layer, from its description, the hidden states, and for the last layer maybe the rows that are
            pooled; or returns None for the common nodes.
        convolve: adds a gated convolution up to its output product; called only for families that have them.
        rows: names of the axes that count tokens: ("tokens",) packed, or texts and longest of a rectangle.
    """

    word: str
    position: Callable[[], str]
    attend: Attend
    pool: Pool
    token_type: Callable[[Weight], str] | None = None
    decode: Callable[[GraphBuilder, Decoder, str, str], str] = emit_decoder
    sum: Callable[[Embedding, Parts], str | None] = lambda embedding, parts: None
    feed_forward: Callable[[GraphBuilder, FeedForward, str, str], str] = emit_feed_forward
    experts: Callable[[GraphBuilder, Experts, str, str], str] = emit_all_experts
    layer: Callable[[Layer, str, PooledRows | None], str | None] = lambda layer, hidden, rows: None
    convolve: Convolve | None = None
    rows: tuple[int | str, ...] = ("tokens",)


def emit_encoder(
    graph: GraphBuilder, architecture: Architecture, parts: Parts, texts: int | str, dimension: int
) -> str:
    """Add all nodes from the embeddings to the output.

    If one token of each text is pooled, the last layer computes no other rows behind its attention; see `pooling.py`.

    The outputs are float32: `vectors`, `scores` and `sparse` (texts, dimension); `token_vectors` (tokens, dimension),
    or (texts, longest, dimension) for tokens in a rectangle. The further outputs of the architecture follow.

    Returns:
        The last hidden states, before any module; (texts, hidden) if one token of each text is pooled.
    """
    embedded = hidden = _emit_embedding(graph, architecture.embedding, parts)
    states = [hidden]
    mode, pool = pooled_mode(architecture), parts.pool
    for layer in architecture.layers:
        rows = None
        if mode is not None and layer is architecture.layers[-1]:
            projection = architecture.projection
            width = architecture.hidden_size if projection is None else projection.weight.shape[0]
            rows, pool = PooledRows(mode, parts.pool, width), keep_rows(graph)
        hidden = parts.layer(layer, hidden, rows) or _emit_layer(graph, layer, (hidden, embedded), parts, rows)
        states.append(hidden)
    if architecture.final_norm is not None:
        hidden = emit_norm(graph, architecture.final_norm, hidden, "final_norm")
    if architecture.projection is not None:
        hidden = emit_linear(graph, architecture.projection, hidden, "projection")
    tokens = emit_layer_average(graph, architecture, [*states[:-1], hidden])
    value = emit_modules(graph, architecture, tokens, pool, parts.decode, texts=texts)
    graph.node("Identity", [value], architecture.output)
    axes = parts.rows if architecture.output == "token_vectors" else (texts,)
    graph.output(TensorInfo(architecture.output, "float32", (*axes, dimension)))
    for output in architecture.token_outputs:
        emit_token_output(graph, output, hidden, parts.rows)
    return hidden


def position_rows(graph: GraphBuilder, architecture: Architecture, shape: tuple[str, ...]) -> Callable[[], str]:
    """Return a function for `Parts.position` that adds the rows of the position table by the input `position_ids`."""

    def emit() -> str:
        learned = architecture.embedding.positions
        if learned is None:
            raise ValueError(f"the family {architecture.family} has no learned positions")
        index = graph.input(TensorInfo("position_ids", "int32", shape))
        return graph.node("Gather", [graph.weight(learned.table), index], "embeddings/position")

    return emit


def token_type_rows(graph: GraphBuilder, shape: tuple[str, ...]) -> Callable[[Weight], str]:
    """Return a function for `Parts.token_type` that adds the rows of the token type table by the input `token_type_ids`."""

    def emit(table: Weight) -> str:
        types = graph.input(TensorInfo("token_type_ids", "int32", shape))
        return graph.node("Gather", [graph.weight(table), types], "embeddings/token_type")

    return emit


def emit_token_types(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str:
    """Add the rows of the token types to those of the word table, for models that take pairs of texts."""
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
    if embedding.scale is not None:
        hidden = graph.node("Mul", [hidden, graph.constant(embedding.scale)], "embeddings/scaled")
    if embedding.token_type is not None:
        hidden = graph.node("Add", [hidden, graph.weight(embedding.token_type)], "embeddings/with_token_type")
    if embedding.positions is not None:
        hidden = graph.node("Add", [hidden, parts.position()], "embeddings/sum")
    if embedding.norm is not None:
        hidden = emit_norm(graph, embedding.norm, hidden, "embeddings/norm")
    return hidden


#: Part of the names of a block's nodes, by the kind of its body.
PARTS = {
    Attention: "attention",
    FeedForward: "feed_forward",
    Experts: "feed_forward",
    EmbeddingGate: "embedding_gate",
    ShortConvolution: "convolution",
}


def _emit_layer(
    graph: GraphBuilder, layer: Layer, states: tuple[str, str], parts: Parts, rows: PooledRows | None
) -> str:
    """Add a layer; with the rows that are pooled, its result has no others.

    Args:
        graph: graph to add to.
        layer: layer to emit.
        states: its input, and the embeddings.
        parts: parts of the target.
        rows: rows that are pooled, for the last layer.
    """
    hidden, embedded = states
    last = max((index for index, block in enumerate(layer.blocks) if mixes_tokens(block)), default=-1)
    for index, block in enumerate(layer.blocks):
        name = f"{layer.name}/{PARTS[type(block.core)]}"
        if rows is not None and index > last and isinstance(block.core, EmbeddingGate):
            embedded = rows.take(embedded, rows.width, f"{name}/embedded")
        hidden = _emit_block(graph, block, (hidden, embedded), parts, name, rows if index == last else None)
    if layer.scale is not None:
        hidden = graph.node("Mul", [hidden, graph.weight(layer.scale)], f"{layer.name}/scaled")
    return hidden


def _emit_block(
    graph: GraphBuilder,
    block: Block,
    states: tuple[str, str],
    parts: Parts,
    name: str,
    rows: PooledRows | None = None,
) -> str:
    """Add a residual block. A block around another one has its own residual and norms, with `_again` after their names.

    Args:
        graph: graph to add to.
        block: the block.
        states: its input, and the embeddings.
        parts: parts of the target.
        name: prefix of the nodes' names.
        rows: rows that remain of a block that mixes tokens; None for all.
    """
    hidden, embedded = states
    again = "_again" if isinstance(block.body, Block) else ""
    value = hidden
    if block.norm_before is not None:
        value = emit_norm(graph, block.norm_before, value, f"{name}/norm{again}")
    if isinstance(block.body, Block):
        value = _emit_block(graph, block.body, (value, embedded), parts, name, rows)
    elif isinstance(block.body, Attention):
        context = parts.attend(block.body, value, name, rows)
        value = emit_linear(graph, block.body.output, context, f"{name}/output")
    elif isinstance(block.body, EmbeddingGate):
        value = emit_embedding_gate(graph, block.body, value, embedded, name)
    elif isinstance(block.body, ShortConvolution):
        if parts.convolve is None:
            raise ValueError(f"this target has no convolutions: {name}")
        result = parts.convolve(block.body, value, name)
        if rows is not None:
            result = rows.take(result, rows.width, f"{name}/result")
        value = emit_linear(graph, block.body.output, result, f"{name}/output")
    elif isinstance(block.body, Experts):
        value = parts.experts(graph, block.body, value, name)
    else:
        value = parts.feed_forward(graph, block.body, value, name)
    if block.norm_after is not None:
        value = emit_norm(graph, block.norm_after, value, f"{name}/norm_after{again}")
    if rows is not None:
        hidden = rows.take(hidden, rows.width, f"{name}/hidden{again}")
    value = graph.node("Add", [value, hidden], f"{name}/residual{again}")
    if block.norm_sum is not None:
        value = emit_norm(graph, block.norm_sum, value, f"{name}/norm{again}")
    return value
