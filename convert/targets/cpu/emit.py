"""Emitter of the target `cpu`: standard operators over packed tokens, so that padding is never computed.

Every matrix product and norm works on (tokens, hidden), the tokens of all texts in a row. Attention alone needs a rectangle:
the packed rows are gathered into (texts, longest, hidden) before it and back after it. For equal lengths this is as fast as a
padded graph, and for mixed lengths it saves the cost of the padding (benchmarks/optimum).

The inputs are those of `Encodings`: `input_ids` int32 (tokens,) and `offsets` int64 (texts + 1,), and for pairs of texts
`token_type_ids` int32 (tokens,).

A pooling that leaves out the tokens of a prompt has the input `skipped_tokens`, int32 (tokens,): 1 for such a token. A model
with adapters for tasks has the input `task_ids`, int32 (tokens,): the number of the task of each token's text.

If a text's vector is the mean of its tokens', the last hidden states are an output too, `token_states` float32 (tokens,
hidden): late chunking averages other spans of tokens. A session copies them only on request.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fletcher.runtime.artifact.manifest import TOKEN_STATES, TensorInfo

from ...architecture import Architecture, LearnedPositions, Normalize, Pooling
from ...checkpoint.tensors import Weight
from ...graph.builder import GraphBuilder
from ...precision import FP32, Precision
from ..shared.convolutions import convolve_by_index, masks_tail
from ..shared.encoder import Parts, emit_encoder
from ..shared.positions import CAUSAL, NO_BIAS, bias_key, emit_positions, has_bias
from ..shared.task_adapters import emit_adapted_words
from .around import emit_around
from .attention import emit_attention
from .distances import emit_skew
from .experts import emit_experts
from .packed_layout import PackedLayout, emit_packed_layout
from .pooling import emit_pooling
from .window_blocks import emit_blocks, is_blockwise

__all__ = ["emit_cpu"]


def emit_cpu(architecture: Architecture, dimension: int, precision: Precision = FP32) -> GraphBuilder:
    """Emit the graph.

    Args:
        architecture: encoder and modules.
        dimension: length of a vector.
        precision: types of the nodes.

    Returns:
        A graph whose output has the name of the architecture's `output`; float32.
    """
    graph = GraphBuilder(f"{architecture.family}-cpu", precision)
    ids = graph.input(TensorInfo("input_ids", "int32", ("tokens",)))
    offsets = graph.input(TensorInfo("offsets", "int64", ("texts_plus_1",)))
    layout = emit_packed_layout(graph, offsets)
    tasks = TensorInfo("task_ids", "int32", ("tokens",))
    word = emit_adapted_words(graph, architecture.embedding, ids, tasks)
    # Attentions in blocks have masks of their own.
    without = (
        NO_BIAS,
        *((CAUSAL,) if architecture.unseen_tail is None else ()),
        *(bias_key(part) for part in architecture.attentions if is_blockwise(part)),
    )
    steps = (
        graph.node("Cast", [layout.steps], "positions/steps", to=6) if has_bias(architecture, without) else ""
    )  # int32
    positions = emit_positions(graph, architecture, layout.positions, steps, without=without)
    around = emit_around(graph, architecture, layout)
    positions = replace(positions, by_distance=emit_skew(graph, architecture, layout), around=around)
    blocks = emit_blocks(graph, architecture, layout)
    seen = layout
    if architecture.unseen_tail is not None:
        seen = replace(layout, lengths=_emit_seen_lengths(graph, architecture.unseen_tail, ids, layout))
    pooled = layout
    if any(isinstance(module, Pooling) and module.skips_prompt for module in architecture.modules):
        pooled = _emit_without_prompt(graph, layout)
    seen_tokens = _emit_seen_tokens(graph, layout, seen) if masks_tail(architecture) else ""
    parts = Parts(
        word=word,
        position=lambda: _emit_position_rows(graph, architecture.embedding.positions, ids, layout),
        attend=lambda attention, hidden, name, rows: emit_attention(
            graph, attention, hidden, seen, (positions, blocks), name, rows
        ),
        pool=lambda mode, hidden, _, name: emit_pooling(graph, mode, hidden, pooled, name),
        token_type=lambda table: _emit_token_types(graph, table),
        experts=emit_experts,
        convolve=convolve_by_index(graph, architecture, around, seen_tokens),
    )
    hidden = emit_encoder(graph, architecture, parts, "texts", dimension)
    if _averages_tokens(architecture):
        graph.node("Identity", [hidden], TOKEN_STATES)
        graph.output(TensorInfo(TOKEN_STATES, "float32", ("tokens", architecture.hidden_size)))
    return graph


def _averages_tokens(architecture: Architecture) -> bool:
    """Return whether a text's vector is the mean of its tokens' last hidden states, normalized or not."""
    pooling, *others = architecture.modules or (None,)
    return pooling == Pooling(("mean",)) and all(isinstance(module, Normalize) for module in others)


def _emit_without_prompt(graph: GraphBuilder, layout: PackedLayout) -> PackedLayout:
    """Add the layout of the tokens that are pooled: without those at the beginning that belong to a prompt."""
    skipped = graph.input(TensorInfo("skipped_tokens", "int32", ("tokens",)))
    rectangle = graph.node("Gather", [skipped, layout.rectangle], "pooled/skipped")  # (texts, longest)
    one, none = graph.constant(np.array(1, np.int32)), graph.constant(np.array(0, np.int32))
    own = graph.node("Sub", [one, rectangle], "pooled/own")
    own = graph.node("Where", [layout.valid, own, none], "pooled/own_valid")
    valid = graph.node("Less", [none, own], "pooled/valid")
    prompt = graph.node("Where", [layout.valid, rectangle, none], "pooled/prompt")
    prompt = graph.node("Cast", [prompt], "pooled/prompt_places", to=7)
    count = graph.node("ReduceSum", [prompt, graph.constant([1])], "pooled/count", keepdims=0)
    # Where truncation left the prompt alone, the first token counts, as in sentence-transformers.
    alone = graph.node("Equal", [count, layout.lengths], "pooled/alone")
    count = graph.node("Where", [alone, graph.constant(0), count], "pooled/skip")
    starts = graph.node("Add", [layout.starts, count], "pooled/starts")
    return replace(layout, valid=valid, starts=starts)


def _emit_token_types(graph: GraphBuilder, table: Weight) -> str:
    types = graph.input(TensorInfo("token_type_ids", "int32", ("tokens",)))
    return graph.node("Gather", [graph.weight(table), types], "embeddings/token_type")


def _emit_seen_lengths(graph: GraphBuilder, tail: int, ids: str, layout: PackedLayout) -> str:
    """Add the tokens of each text up to the last one that is not of the id `tail`, int64, (texts,); at least 1."""
    one = graph.constant(1)
    is_other = graph.node(
        "Not", [graph.node("Equal", [ids, graph.constant(np.array(tail, np.int32))], "tail/is")], "tail/not"
    )
    place = graph.node("Add", [layout.positions, one], "tail/place")  # 1, 2, … in each text
    places = graph.node("Where", [is_other, place, one], "tail/kept")
    rectangle = graph.node("Gather", [places, layout.rectangle], "tail/rectangle")  # (texts, longest)
    valid = graph.node("Where", [layout.valid, rectangle, one], "tail/valid")
    return graph.node("ReduceMax", [valid, graph.constant([1])], "tail/seen_lengths", keepdims=0)


def _emit_seen_tokens(graph: GraphBuilder, layout: PackedLayout, seen: PackedLayout) -> str:
    """Add 1 for each token before its text's unseen tail, else 0, float32, (tokens, 1)."""
    longest = graph.node("Shape", [layout.steps], "tail/longest")
    text = graph.node("Div", [layout.packed, longest], "tail/text")
    length = graph.node("Gather", [seen.lengths, text], "tail/length")
    is_seen = graph.node("Less", [layout.positions, length], "tail/is_seen")
    flags = graph.node("Cast", [is_seen], "tail/seen", to=1)
    return graph.node("Unsqueeze", [flags, graph.constant([1])], "tail/seen_tokens")


def _emit_position_rows(graph: GraphBuilder, positions: LearnedPositions | None, ids: str, layout: PackedLayout) -> str:
    if positions is None:
        raise ValueError("the family has no learned positions")
    index = layout.positions
    if positions.padding_id is not None:
        index = _emit_counted_positions(graph, positions.padding_id, ids, layout)
    return graph.node("Gather", [graph.weight(positions.table), index], "embeddings/position")


def _emit_counted_positions(graph: GraphBuilder, padding_id: int, ids: str, layout: PackedLayout) -> str:
    """Add RoBERTa's positions: the padding id plus the number of tokens up to each one; padding tokens count 0.

    Source: `create_position_ids_from_input_ids` in transformers' modeling_roberta.py.
    """
    padding = graph.node("Equal", [ids, graph.constant(np.array(padding_id, np.int32))], "embeddings/is_padding")
    counts = graph.node("Cast", [graph.node("Not", [padding], "embeddings/counts")], "embeddings/counts_int64", to=7)
    before = graph.node("CumSum", [counts, graph.constant(0)], "embeddings/counted_before", exclusive=1)
    # The sum runs over all packed tokens: subtract the count before the text's own first token.
    longest = graph.node("Shape", [layout.steps], "embeddings/longest")
    text = graph.node("Div", [layout.packed, longest], "embeddings/text")
    start = graph.node("Gather", [layout.starts, text], "embeddings/start")
    skipped = graph.node("Gather", [before, start], "embeddings/counted_before_text")
    earlier = graph.node("Sub", [before, skipped], "embeddings/counted_earlier")
    nth = graph.node("Add", [earlier, counts], "embeddings/nth")
    nth_or_0 = graph.node("Mul", [nth, counts], "embeddings/nth_or_0")
    return graph.node("Add", [nth_or_0, graph.constant(padding_id)], "embeddings/position_ids")
