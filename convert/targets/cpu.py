"""The target `cpu`: standard operators over packed tokens, so that padding is never computed.

Every matrix product and norm works on (tokens, hidden), all texts' tokens in a row. Attention alone needs a rectangle: the
packed rows are gathered into (texts, longest, hidden) before it and back after it. Measured on MiniLM (benchmarks/batching):
the rectangle costs nothing that shows where lengths are equal, and ragged batches gain what padding would have cost.

The graph eats `Encodings`: `input_ids` int32 (tokens,) and `offsets` int64 (texts + 1,).
"""

from __future__ import annotations

import numpy as np

from fletcher.runtime.artifact import TensorInfo

from ..description import Architecture, Embedding, Layer
from ..graph import GraphBuilder
from .attention import emit_attention
from .blocks import emit_feed_forward, emit_linear, emit_norm
from .layout import Layout, emit_layout
from .modules import emit_modules
from .positions import Positions, emit_positions

__all__ = ["emit_cpu"]


def emit_cpu(architecture: Architecture, dimension: int) -> GraphBuilder:
    """Writes the graph.

    Args:
        architecture: what to compute.
        dimension: length of a vector.

    Returns:
        A graph with the output `vectors`, float32, (texts, dimension).
    """
    graph = GraphBuilder(f"{architecture.family}-cpu")
    ids = graph.input(TensorInfo("input_ids", "int32", ("tokens",)))
    offsets = graph.input(TensorInfo("offsets", "int64", ("texts_plus_1",)))
    layout = emit_layout(graph, offsets)
    hidden = _emit_embedding(graph, architecture.embedding, ids, layout)
    positions = emit_positions(graph, architecture, layout)
    for layer in architecture.layers:
        hidden = _emit_layer(graph, layer, hidden, layout, positions)
    if architecture.final_norm is not None:
        hidden = emit_norm(graph, architecture.final_norm, hidden, "final_norm")
    pooled = emit_modules(graph, architecture, hidden, layout)
    graph.node("Identity", [pooled], "vectors")
    graph.output(TensorInfo("vectors", "float32", ("texts", dimension)))
    return graph


def _emit_embedding(graph: GraphBuilder, embedding: Embedding, ids: str, layout: Layout) -> str:
    hidden = graph.node("Gather", [graph.weight(embedding.word), ids], "embeddings/word")
    if embedding.token_type is not None:
        hidden = graph.node("Add", [hidden, graph.weight(embedding.token_type)], "embeddings/with_token_type")
    if embedding.positions is not None:
        index = layout.positions
        if embedding.positions.padding_id is not None:
            index = _emit_counted_positions(graph, embedding.positions.padding_id, ids, layout)
        positions = graph.node("Gather", [graph.weight(embedding.positions.table), index], "embeddings/position")
        hidden = graph.node("Add", [hidden, positions], "embeddings/sum")
    if embedding.norm is not None:
        hidden = emit_norm(graph, embedding.norm, hidden, "embeddings/norm")
    if embedding.projection is not None:
        hidden = emit_linear(graph, embedding.projection, hidden, "embeddings/projection")
    return hidden


def _emit_counted_positions(graph: GraphBuilder, padding_id: int, ids: str, layout: Layout) -> str:
    """How many tokens of the text, up to each one, are no padding tokens; a padding token has 0. Then the padding id more.

    Source: `create_position_ids_from_input_ids` in transformers' modeling_roberta.py.
    """
    padding = graph.node("Equal", [ids, graph.constant(np.array(padding_id, np.int32))], "embeddings/is_padding")
    counts = graph.node("Cast", [graph.node("Not", [padding], "embeddings/counts")], "embeddings/counts_int64", to=7)
    before = graph.node("CumSum", [counts, graph.constant(0)], "embeddings/counted_before", exclusive=1)
    # That runs over all packed tokens: less what was counted before the text's own first token.
    longest = graph.node("Shape", [layout.steps], "embeddings/longest")
    text = graph.node("Div", [layout.packed, longest], "embeddings/text")
    start = graph.node("Gather", [layout.starts, text], "embeddings/start")
    skipped = graph.node("Gather", [before, start], "embeddings/counted_before_text")
    earlier = graph.node("Sub", [before, skipped], "embeddings/counted_earlier")
    nth = graph.node("Add", [earlier, counts], "embeddings/nth")
    nth_or_0 = graph.node("Mul", [nth, counts], "embeddings/nth_or_0")
    return graph.node("Add", [nth_or_0, graph.constant(padding_id)], "embeddings/position_ids")


def _emit_layer(graph: GraphBuilder, layer: Layer, hidden: str, layout: Layout, positions: Positions) -> str:
    """norm(x + f(x)), or x + f(norm(x)) for pre-norm."""
    name = layer.name
    attended = hidden
    if layer.norm_first and layer.attention_norm is not None:
        attended = emit_norm(graph, layer.attention_norm, hidden, f"{name}/attention/norm")
    attended = emit_attention(graph, layer.attention, attended, layout, positions, f"{name}/attention")
    inputs = hidden
    hidden = graph.node("Add", [attended, inputs], f"{name}/attention/residual")
    if not layer.norm_first and layer.attention_norm is not None:
        hidden = emit_norm(graph, layer.attention_norm, hidden, f"{name}/attention/norm")
    if layer.attention_norm_again is not None:
        hidden = graph.node("Add", [hidden, inputs], f"{name}/attention/residual_again")
        hidden = emit_norm(graph, layer.attention_norm_again, hidden, f"{name}/attention/norm_again")
    widened = hidden
    if layer.norm_first:
        widened = emit_norm(graph, layer.feed_forward_norm, hidden, f"{name}/feed_forward/norm")
    widened = emit_feed_forward(graph, layer.feed_forward, widened, f"{name}/feed_forward")
    hidden = graph.node("Add", [widened, hidden], f"{name}/feed_forward/residual")
    if not layer.norm_first:
        hidden = emit_norm(graph, layer.feed_forward_norm, hidden, f"{name}/feed_forward/norm")
    return hidden
