"""Emitter of the target `coreml`: fixed shapes, a graph for each length bucket, batch 1, operators of CoreML's MLProgram.

CoreML has no dimension above 16,384, which excludes the vocabulary, and no Gather: the host looks up the rows of the word and
position tables, which are in the weights file, and feeds them. Values that depend on positions alone are constant for a
bucket: rotary tables are cut to its length, and distances are computed from a vector of steps with Sub, Mul and Max.

Source of `OPERATORS`: coreml_supported_mlprogram_ops.md in onnxruntime.tools.mobile_helpers 1.32. The graphs do not use
`Where`, which only recent versions of that list have, and `Gather`, `Neg`, `Expand`, `Abs`, `LessOrEqual`, `ReduceL2`, which
it lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fletcher.runtime.artifact.manifest import FeedRules, TensorInfo
from fletcher.runtime.errors import InputError
from fletcher.runtime.session.feeds import POSITION_TABLE, WORD_TABLE

from ...architecture import Architecture, Attention, Embedding, Mask, RelativeBias, Rotary, Window
from ...checkpoint.tensors import Weight, concatenate, constant
from ...graph.builder import GraphBuilder
from ...graph.norms import NORMS
from ...precision import FP32, Float, Precision
from ..shared.disentangled import Skew, find_disentangled
from ..shared.emission import Emission
from ..shared.encoder import Parts, emit_encoder
from ..shared.positions import (
    OUT_OF_SIGHT_HALF,
    Positions,
    biased_attentions,
    buckets,
    emit_sum,
    is_symmetric,
    rotaries_of,
    rotary_tables,
)
from ..shared.rectangle import emit_mask, emit_rectangle_attention, emit_rectangle_pooling
from ..shared.task_adapters import emit_adapted_rows
from .convolutions import emit_shifted_convolution

__all__ = ["LARGEST_SIDE", "OPERATORS", "emit_coreml", "lengths"]

OPSET = 20
#: Largest dimension that CoreML accepts.
LARGEST_SIDE = 16_384
#: Longest bucket: the scores of one text of 2,048 tokens with 12 heads fill 100 MB in fp16.
LONGEST = 2048
SHORTEST = 32

OPERATORS = frozenset(
    {
        *(
            "Add",
            "Cast",
            "Clip",
            "Concat",
            "Div",
            "Gelu",
            "Identity",
            NORMS["layer_norm"],
            "MatMul",
            "Max",
            "Mul",
            "ReduceMax",
        ),
        *(
            "ReduceSum",
            "Relu",
            "Reshape",
            "Sigmoid",
            "Slice",
            "Softmax",
            "Split",
            "Sqrt",
            "Squeeze",
            "Sub",
            "Tanh",
            "Transpose",
        ),
        "Unsqueeze",
    }
)

_DTYPES: dict[Float, str] = {"fp32": "float32", "fp16": "float16"}


def lengths(max_tokens: int) -> tuple[int, ...]:
    """Return the lengths of the buckets in tokens: 32, 64, … up to the longest text, or 2,048."""
    longest = min(max_tokens, LONGEST)
    ladder = [SHORTEST]
    while ladder[-1] < longest:
        ladder.append(2 * ladder[-1])
    return (*(length for length in ladder if length < longest), longest)


def emit_coreml(
    architecture: Architecture, dimension: int, max_tokens: int, precision: Precision = FP32
) -> tuple[Emission, ...]:
    """Emit a graph for each bucket.

    Args:
        architecture: encoder and modules.
        dimension: length of a vector.
        max_tokens: tokens of the longest text.
        precision: types of the nodes; CoreML has no bf16.

    Raises:
        InputError: the model needs an operator or a size that CoreML lacks.
    """
    if architecture.unseen_tail is not None and any(part.sees_tail for part in architecture.short_convolutions):
        raise InputError(
            "the target coreml cannot tell padding from the tokens of a query's expansion, which are in this model's "
            "convolutions and to which no token attends: export it for another target"
        )
    if architecture.output == "sparse":
        raise InputError(
            f"the target coreml has no Log, and no dimension above {LARGEST_SIDE:,}; this model computes log(1 + weight) "
            f"of each of {dimension:,} tokens of its vocabulary: export it for another target"
        )
    types = architecture.embedding.token_types
    if types is not None and types.shape[0] != 2:
        raise InputError(
            f"the target coreml has no Gather, and supports two token types, not the {types.shape[0]} of this model: "
            "export it for another target"
        )
    emissions = tuple(_emit_bucket(architecture, dimension, length, precision) for length in lengths(max_tokens))
    for weight in emissions[0].graph.weights.values():
        if max(weight.shape) > LARGEST_SIDE and weight.name not in emissions[0].feeds.tables.values():
            raise InputError(
                f"the target coreml has no dimension above {LARGEST_SIDE:,}, and the weight {weight.name} of this model has "
                f"the shape {weight.shape}: export it for another target"
            )
    return emissions


def _emit_bucket(architecture: Architecture, dimension: int, length: int, precision: Precision) -> Emission:
    graph = GraphBuilder(f"{architecture.family}-coreml-{length}", precision, OPSET)
    shape = (1, length)
    rectangle = emit_mask(graph, shape)
    embedding = architecture.embedding
    positions = _emit_positions(graph, architecture, length)
    tables: dict[str, str] = {}

    def rows(name: str, table: Weight) -> str:
        tables[name] = graph.table(table)
        return graph.input(TensorInfo(name, _DTYPES[precision.name], (*shape, table.shape[1])))

    def position_rows() -> str:
        assert embedding.positions is not None  # `emit_encoder` asks for them only then
        return rows(POSITION_TABLE, embedding.positions.table)

    seen = rectangle.emit_seen_tokens(graph) if architecture.short_convolutions else ""
    parts = Parts(
        word=_emit_words(graph, embedding, rows),
        position=position_rows,
        attend=lambda attention, hidden, name, rows: emit_rectangle_attention(
            graph, attention, hidden, rectangle, positions, name, rows
        ),
        pool=lambda mode, hidden, _, name: emit_rectangle_pooling(graph, mode, hidden, rectangle, name),
        token_type=lambda table: _emit_token_types(graph, table, shape),
        convolve=lambda part, hidden, name: emit_shifted_convolution(graph, part, hidden, (seen, length), name),
        rows=shape,
    )
    emit_encoder(graph, architecture, parts, 1, dimension)
    padding_id = None if embedding.positions is None else embedding.positions.padding_id
    rules = FeedRules(padding_id=padding_id, shape=shape, tables=tables, unseen_tail=architecture.unseen_tail)
    return Emission(graph, f"-s{length}", rules)


def _emit_words(graph: GraphBuilder, embedding: Embedding, rows: Callable[[str, Weight], str]) -> str:
    """Add the rows of the word table. The host looks up those of its adapters with them, in one table."""
    adapters = embedding.adapters
    if adapters is None:
        return rows(WORD_TABLE, embedding.word)
    tables = (embedding.word, adapters.word.down)
    both = rows(WORD_TABLE, concatenate(f"{embedding.word.name}.with_lora_A", tables, axis=1))
    sizes = graph.constant([table.shape[1] for table in tables])
    parts = ["embeddings/word/rows", "embeddings/word/adapter/low"]
    word, low = graph.nodes("Split", [both, sizes], "embeddings/word/split", parts, axis=-1)
    return emit_adapted_rows(graph, adapters, (word, low), TensorInfo("text_tasks", "int32", (1,)))


def _emit_token_types(graph: GraphBuilder, table: Weight, shape: tuple[int, int]) -> str:
    """Add the rows of a table of two token types without Gather: first + type · (second - first), (1, length, width)."""
    types = graph.input(TensorInfo("token_type_ids", "int32", shape))
    factors = graph.node("Cast", [types], "embeddings/token_type/ids", to=1)
    factors = graph.node("Unsqueeze", [factors, graph.constant([2])], "embeddings/token_type/factors")
    first = Weight(f"{table.name}.0", table.shape[1:], lambda: table.load()[0])
    step = Weight(f"{table.name}.1_less_0", table.shape[1:], lambda: table.load()[1] - table.load()[0])
    steps = graph.node("Mul", [factors, graph.weight(step)], "embeddings/token_type/steps")
    return graph.node("Add", [steps, graph.weight(first)], "embeddings/token_type")


def _emit_positions(graph: GraphBuilder, architecture: Architecture, length: int) -> Positions:
    """Add the values of `positions.emit_positions` for a fixed length, without the operators that CoreML lacks."""
    tables = {
        name: _emit_table(graph, rotary, min(architecture.max_positions, LARGEST_SIDE), length)
        for name, rotary in rotaries_of(architecture).items()
    }
    skew = _skew(graph, architecture, length)
    different = biased_attentions(architecture)
    if not different:
        return Positions(tables, {}, skew)
    steps = graph.weight(constant(f"steps.s{length}", np.arange(length, dtype=np.float32)))
    query = graph.node("Unsqueeze", [steps, graph.constant([1])], "positions/query")
    ahead = graph.node("Sub", [steps, query], "positions/ahead")  # key - query, (length, length)
    behind = graph.node("Sub", [query, steps], "positions/behind")
    absolute = graph.node("Max", [ahead, behind], "positions/absolute_distance")
    others = ""
    if any(part.first is not None for part in different.values()):
        others = graph.weight(constant(f"others.s{length}", np.minimum(np.arange(length, dtype=np.float32), 1)))
    distances = _Distances(ahead, behind, absolute, others)
    biases = {
        key: _emit_bias(graph, part, length, distances, f"positions/bias.{index}")
        for index, (key, part) in enumerate(different.items())
    }
    return Positions(tables, biases, skew, others=others)


def _skew(graph: GraphBuilder, architecture: Architecture, length: int) -> Skew | None:
    """Return the way to place scores by content and distance, with tables of ordered rows; None without such scores."""
    disentangled = find_disentangled(architecture)
    if disentangled is None:
        return None
    middle = (len(disentangled.rows) - 1) // 2  # place of the distance 0
    distances = np.clip(np.arange(-length, length), -middle, middle)  # the first one is in a column that is cut off
    orders = {
        order: np.array(disentangled.rows)[places]
        for order, places in (("ahead", middle - distances), ("behind", middle + distances))
    }

    def cut(table: Weight, order: str) -> str:
        heads, _, size = table.shape
        rows = orders[order]
        shape = (heads, 2 * length, size)
        return graph.weight(Weight(f"{table.name}.s{length}", shape, lambda: table.load()[:, rows]))

    heads = architecture.attentions[0].num_heads
    return Skew(
        ahead=lambda table, _: cut(table, "ahead"),
        behind=lambda table, _: cut(table, "behind"),
        tall=graph.constant([1, heads, 2 * length, length]),
        wide=graph.constant([1, heads, length, 2 * length - 1]),
        longest=graph.constant([length]),
    )


def _emit_table(graph: GraphBuilder, rotary: Rotary, num_positions: int, length: int) -> tuple[str, str]:
    """Add the first rows of the tables, (1, length, 1, pairs)."""
    parts = []
    for name, table in zip(("cos", "sin"), rotary_tables(rotary, num_positions), strict=True):
        weight = graph.weight(constant(f"{rotary.name}.{name}", table))
        zero, end = graph.constant([0]), graph.constant([length])
        rows = graph.node("Slice", [weight, zero, end, zero], f"positions/{rotary.name}/{name}_rows")
        parts.append(graph.node("Unsqueeze", [rows, graph.constant([0, 2])], f"positions/{rotary.name}/{name}"))
    return parts[0], parts[1]


@dataclass(frozen=True, slots=True)
class _Distances:
    """`_Distances`: names of the distances of each pair of positions, (length, length).

    Attributes:
        ahead: key - query.
        behind: query - key.
        absolute: the larger one.
        others: see `Positions`.
    """

    ahead: str
    behind: str
    absolute: str
    others: str


def _emit_bias(graph: GraphBuilder, attention: Attention, length: int, distances: _Distances, name: str) -> str:
    """Add the bias of a layer's scores, (1, heads or 1, length, length)."""
    terms = []
    if attention.alibi is not None:
        slopes = graph.constant(-np.array(attention.alibi, np.float32)[:, None, None])
        terms.append(graph.node("Mul", [distances.absolute, slopes], f"{name}/alibi"))
    if attention.relative_bias is not None:
        terms.append(graph.weight(_by_place(attention.relative_bias, length)))
    if attention.mask != "full":
        outside = _emit_outside(graph, attention.mask, distances, name)
        if attention.first is not None:  # no token is too far from the first one
            outside = graph.node("Mul", [outside, distances.others], f"{name}/outside_but_first")
        terms.append(graph.node("Mul", [outside, graph.constant(OUT_OF_SIGHT_HALF)], f"{name}/in_window"))
    return emit_sum(graph, attention, terms, name)


def _emit_outside(graph: GraphBuilder, mask: Mask, distances: _Distances, name: str) -> str:
    """Add 1 for each key outside a mask, else 0, (length, length)."""

    def beyond(value: str, limit: int, suffix: str) -> str:
        further = graph.node("Sub", [value, graph.constant(float(limit))], f"{name}/beyond{suffix}")
        return graph.node("Clip", [further, graph.constant(0.0), graph.constant(1.0)], f"{name}/outside{suffix}")

    if isinstance(mask, Window) and is_symmetric(mask):
        return beyond(distances.absolute, mask.before, "")
    after = beyond(distances.ahead, mask.after if isinstance(mask, Window) else 0, "_after")
    if not isinstance(mask, Window):
        return after
    before = beyond(distances.behind, mask.before, "_before")
    return graph.node("Add", [after, before], f"{name}/outside")  # no key is outside on both sides


def _by_place(bias: RelativeBias, length: int) -> Weight:
    """Return the learned bias of each pair of positions, (heads, length, length)."""
    num_buckets, num_heads = bias.table.shape
    steps = np.arange(length, dtype=np.int64)
    index = buckets(steps - steps[:, None], num_buckets, bias.max_distance)
    return Weight(
        f"{bias.table.name}.s{length}",
        (num_heads, length, length),
        lambda: np.ascontiguousarray(bias.table.load()[index].transpose(2, 0, 1)),
    )
