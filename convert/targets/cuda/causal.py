"""Graphs of causal models in half precision: `com.microsoft.GroupQueryAttention` over a rectangle of texts.

The operator norms and rotates queries and keys, has grouped heads and windows, and calls cuDNN's or the flash kernel, which
skips what a token does not see. `PackedMultiHeadAttention` would need a bias of (longest, longest) for the mask, for which it
has no flash kernel, keys and values repeated for all heads, and further operators for norms and rotations.
benchmarks/gpu/decoder.py measures a model and the kernels of its batch.

With Fletcher's kernels, the standard operator `Attention` reads heads that are normed and rotated already (kernels.py).
`GroupQueryAttention` would copy them again, by a kernel that takes 0.37 ms for 64 x 256 tokens and 32 heads (H200). The
standard operator has the flash kernel alone, which takes 0.12 ms where cuDNN's takes 0.07. But ONNX Runtime lets cuDNN build
a plan for each new number of texts and tokens, in each thread, and keeps all of them (cudnn_flash_attention.cu), so cuDNN's
kernel is for batches of one shape. The operator has no windows, which stay with `GroupQueryAttention`.

Neither operator has packed rows, so a text has padding up to the longest one of the batch. Padding is behind a text's tokens:
a causal mask hides it from them, and what it computes is not read. That is why only single rows of a text are pooled here.

Source: docs/ContribOperators.md of ONNX Runtime. The operator has CUDA kernels for float16 and bfloat16.
"""

from __future__ import annotations

from dataclasses import replace

from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.manifest import HALF_VECTORS, TensorInfo

from ...architecture import Architecture, Attention, Pooling, Window
from ...graph.builder import GraphBuilder
from ...graph.norms import MICROSOFT
from ...precision import Precision
from ..shared.blocks import emit_feed_forward, emit_linear, side_by_side
from ..shared.convolutions import convolve_by_index, input_around
from ..shared.emission import Emission
from ..shared.encoder import Parts, emit_encoder, position_rows
from ..shared.pooling import PooledRows, take_context
from ..shared.positions import rotary_weights
from .kernels import Kernels, refuse_heads

__all__ = ["emit_causal", "is_causal"]

SHAPE = ("texts", "longest")


def is_causal(architecture: Architecture, precision: Precision) -> bool:
    """Return whether the operator can compute all attentions of an architecture in a precision.

    Args:
        architecture: encoder and modules.
        precision: types of the nodes; an attention that must be fp32 has no kernel. In bf16 none must: it has fp32's range.
    """
    pooled = {mode for module in architecture.modules if isinstance(module, Pooling) for mode in module.modes}
    return (
        precision.arithmetic != "fp32"
        and bool(pooled)
        and pooled <= {"cls", "lasttoken"}
        and architecture.unseen_tail is None
        and architecture.embedding.positions is None
        and architecture.embedding.token_types is None
        and (precision.arithmetic == "bf16" or not any("/attention/" in node for node in precision.islands))
        and all(_has_kernel(attention) for attention in architecture.attentions)
    )


def _has_kernel(attention: Attention) -> bool:
    mask = attention.mask
    seen = mask == "causal" or (isinstance(mask, Window) and mask.after == 0)
    both_normed = (attention.query_norm is None) == (attention.key_norm is None)
    added = attention.alibi is not None or attention.relative_bias is not None
    return seen and both_normed and not added and refuse_heads(attention) is None


def emit_causal(
    architecture: Architecture, dimension: int, precision: Precision, kernels: Kernels | None = None
) -> Emission:
    """Emit the graph.

    Args:
        architecture: encoder and modules, for which `is_causal` is true.
        dimension: length of a vector.
        precision: types of the nodes.
        kernels: emitter of Fletcher's own operators; None: the graph has none.
    """
    if precision.arithmetic == "bf16":
        precision = replace(precision, islands=frozenset())
    graph = GraphBuilder(f"{architecture.family}-cuda", precision)
    ids = graph.input(TensorInfo("input_ids", "int32", SHAPE))
    flash = frozenset[str]() if kernels is None else kernels.find_heads(architecture, causal=True)
    lengths = ("", "")
    if len(flash) < len(architecture.attentions):
        lengths = (
            graph.input(TensorInfo("last_positions", "int32", ("texts",))),
            graph.input(TensorInfo("total_sequence_length", "int32", ())),
        )

    def attend(attention: Attention, hidden: str, name: str, rows: PooledRows | None) -> str:
        if kernels is not None and name in flash:
            context = _emit_flash_context(graph, kernels, attention, hidden, architecture.max_positions, name)
        else:
            context = _emit_context(graph, attention, hidden, lengths, architecture.max_positions, name)
        return take_context(rows, attention, context, name)

    around = input_around(graph, architecture, SHAPE, (0, 0))
    parts = Parts(
        word=graph.node("Gather", [graph.weight(architecture.embedding.word), ids], "embeddings/word"),
        position=position_rows(graph, architecture, SHAPE),
        attend=attend,
        feed_forward=emit_feed_forward if kernels is None else kernels.emit_feed_forward,
        pool=lambda mode, hidden, width, name: _emit_row(graph, mode, hidden, width, name),
        convolve=convolve_by_index(graph, architecture, around),
        rows=SHAPE,
    )
    emit_encoder(graph, architecture, parts, "texts", dimension)
    if architecture.output == "vectors":
        graph.node("Cast", ["vectors"], HALF_VECTORS, to=10)
        graph.output(TensorInfo(HALF_VECTORS, "float16", ("texts", dimension)))
    if kernels is not None:
        kernels.join_sums(graph)
    return Emission(graph, gaps=() if kernels is None else tuple(kernels.gaps))


def _emit_flash_context(
    graph: GraphBuilder, kernels: Kernels, attention: Attention, hidden: str, num_positions: int, name: str
) -> str:
    """Add a causal attention up to its context, (texts, longest, heads · head_size), over heads that are ready."""
    heads = kernels.emit_heads(graph, attention, hidden, name, num_positions=num_positions, repeats=1)
    (context,) = graph.nodes(
        "Attention",
        heads,
        f"{name}/flash/context",  # a name of its own: the comparison layer by layer reads scores of the usual one
        (f"{name}/context",),
        is_causal=1,
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=attention.scale,
    )
    return context


def _emit_context(
    graph: GraphBuilder, attention: Attention, hidden: str, lengths: tuple[str, str], num_positions: int, name: str
) -> str:
    """Add the attention up to its context, (texts, longest, heads · head_size)."""
    rotary, mask = attention.rotary, attention.mask
    assert rotary is not None
    parts = (attention.query, attention.key, attention.value)
    packed = emit_linear(graph, side_by_side(parts, f"{name}/qkv"), hidden, f"{name}/qkv")
    tables = rotary_weights(graph, rotary, num_positions)
    inputs = [packed, "", "", "", "", *lengths, *tables]
    attributes = {
        "num_heads": attention.num_heads,
        "kv_num_heads": attention.num_kv_heads,
        "scale": attention.scale,
        "do_rotary": 1,
        "rotary_interleaved": int(rotary.interleaved),
    }
    if isinstance(mask, Window):
        attributes["local_window_size"] = mask.before + 1  # with the token itself
    query_norm, key_norm = attention.query_norm, attention.key_norm
    if query_norm is not None and key_norm is not None:
        inputs += ["", "", "", "", "", graph.weight(query_norm.weight), graph.weight(key_norm.weight)]
        attributes["qk_norm_epsilon"] = query_norm.epsilon
    # Keys and values of a whole text, which a generating model would keep. The operator always writes them.
    outputs = (f"{name}/context", f"{name}/present_key", f"{name}/present_value")
    return graph.nodes("GroupQueryAttention", inputs, outputs[0], outputs, domain=MICROSOFT, **attributes)[0]


def _emit_row(graph: GraphBuilder, mode: PoolingMode, hidden: str, width: int, name: str) -> str:
    """Add the first or the last token's row of each text, (texts, width)."""
    rows = graph.input(TensorInfo(f"places.{mode}", "int32", ("texts",)))
    flat = graph.node("Reshape", [hidden, graph.constant([-1, width])], f"{name}/rows")
    return graph.node("Gather", [flat, rows], name)
