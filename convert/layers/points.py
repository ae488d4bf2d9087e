"""Points at which a graph is compared: the meaning of its values, and the order of their computation.

Points are found by the names that the emitters give their nodes. A point's `key` is the same on every target and for the
reference model, independent of the family's names of its layers: `layers.3/attention/query`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.model_zoo.card import PoolingMode

from ..graph.norms import SUMMED_NORMS

__all__ = [
    "EMBEDDING_POINTS",
    "LAYER_POINTS",
    "SCORE_POINTS",
    "GraphPoint",
    "Kind",
    "find_points",
    "hidden_points",
    "is_whole",
    "layer_of",
    "title_of",
]


class Kind(Enum):
    """Meaning of a value's first axes."""

    TOKENS = "tokens"  # (tokens, width) packed, or (texts, longest, width)
    SCORES = "scores"  # (texts, heads, longest, longest)
    TEXTS = "texts"  # (texts, width)


@dataclass(frozen=True, slots=True)
class GraphPoint:
    """Value of a graph that is compared.

    Attributes:
        key: name in every graph and in the reference.
        kind: meaning of the first axes.
        node: name of the node that computes it.
        value: name of the node's output; for scores, see `scores.py`.
        pooled: pooling whose tokens have the only rows that are compared, for a value of the encoder of the kind `TEXTS`, or
            for scores of one query of each text.
    """

    key: str
    kind: Kind
    node: str
    value: str
    pooled: PoolingMode | None = None

    def rows_of(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return those rows of a text's value that are compared.

        Args:
            value: (tokens, width), or scores, (heads, tokens, …); or those rows alone.

        Returns:
            All rows, or the pooled one, (width,) or (heads, 1, …).
        """
        if self.pooled is None or value.ndim == 1:
            return value
        if self.kind is Kind.SCORES:
            return value[:, :1] if self.pooled == "cls" else value[:, -1:]
        row: NDArray[np.float32] = value[0 if self.pooled == "cls" else -1]
        return row


EMBEDDING_POINTS: Mapping[str, str] = MappingProxyType(
    {
        "word": "word embedding",
        "scaled": "scaled word embedding",
        "with_token_type": "word and token type embedding",
        "position": "position embedding",
        "sum": "sum of the embeddings",
        "norm": "LayerNorm of the embeddings",
        "projection": "projection of the embeddings",
    }
)

#: Values inside the operator `Attention`, in the order of computation.
SCORE_POINTS: Mapping[str, str] = MappingProxyType(
    {
        "attention/raw_scores": "raw scores",
        "attention/scaled_scores": "scaled scores",
        "attention/mask": "mask: visible tokens",
        "attention/biased_scores": "scores with bias",
        "attention/softmax": "softmax, padding included",
        "attention/softmax_sums": "sums of the softmax's rows",
    }
)

LAYER_POINTS: Mapping[str, str] = MappingProxyType(
    {
        "attention/query": "query projection",
        "attention/key": "key projection",
        "attention/value": "value projection",
        "attention/query/norm": "LayerNorm of the query",
        "attention/key/norm": "LayerNorm of the key",
        "attention/value/norm": "LayerNorm of the value",
        "attention/query/rotated": "rotated query (RoPE)",
        "attention/key/rotated": "rotated key (RoPE)",
        **SCORE_POINTS,
        "attention/context": "context",
        "attention/output": "attention output",
        "attention/norm_after": "LayerNorm of the attention output",
        "attention/residual": "attention residual",
        "attention/norm": "LayerNorm of the attention",
        "attention/residual_again": "second attention residual",
        "attention/norm_again": "second LayerNorm of the attention",
        "convolution/norm": "LayerNorm of the convolution",
        "convolution/input": "input product of the convolution",
        "convolution/result": "gated convolution",
        "convolution/output": "convolution output",
        "convolution/residual": "convolution residual",
        "feed_forward/up": "up projection",
        "feed_forward/gate": "gate projection",
        "feed_forward/activation": "activation",
        "feed_forward/gated": "gated activation",
        "feed_forward/down": "down projection",
        "feed_forward/router/scores": "scores of the router",
        "feed_forward/router/shares": "shares of the experts",
        "feed_forward/with_bias": "sum of the experts",
        "feed_forward/norm_after": "LayerNorm of the down projection",
        "feed_forward/residual": "feed-forward residual",
        "feed_forward/norm": "LayerNorm of the feed-forward part",
        "embedding_gate/gate": "gate by the embeddings",
        "embedding_gate/activation": "activation of the gate by the embeddings",
        "embedding_gate/gated": "gated embeddings",
        "embedding_gate/down": "projection of the gated embeddings",
        "embedding_gate/norm_after": "LayerNorm of the gated embeddings",
        "embedding_gate/residual": "residual of the gated embeddings",
    }
)


def _summed(value: str, *hidden: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the entries of `_INSIDE` for operators that sum before they norm."""
    return {(operator, value): hidden for operator in SUMMED_NORMS.values()}


#: Points before a context that the operators of attention do not show: their inputs can have another order of columns than
#: the model's own query and key, or are one product, and they rotate.
_BEFORE_CONTEXT = (
    "attention/query",
    "attention/key",
    "attention/value",
    "attention/query/rotated",
    "attention/key/rotated",
)

#: Points inside operators of several steps (target cuda), by operator and its output.
_INSIDE: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        **_summed("embeddings/norm", "embeddings/with_token_type", "embeddings/sum"),
        ("PackedMultiHeadAttention", "attention/context"): _BEFORE_CONTEXT,
        ("PackedMultiHeadAttention", "attention/self_context"): _BEFORE_CONTEXT,
        ("GroupQueryAttention", "attention/context"): _BEFORE_CONTEXT,
        ("HeadNormRotary", "attention/query/rotated"): (*_BEFORE_CONTEXT, "attention/query/norm", "attention/key/norm"),
        ("GatedActivation", "feed_forward/gated"): ("feed_forward/activation",),
        **_summed("attention/norm", "attention/output", "attention/residual"),
        ("BiasGelu", "feed_forward/activation"): ("feed_forward/up",),
        ("FastGelu", "feed_forward/activation"): ("feed_forward/up",),
        **_summed("feed_forward/norm", "feed_forward/down", "feed_forward/residual"),
    }
)

_LAYER = re.compile(r"(?P<prefix>.+?)/(?P<part>(attention|convolution|feed_forward|embedding_gate)/.+)")
_MODULE = re.compile(r"(?P<module>modules\.(?P<index>\d+))/(?P<part>.+)")

#: Last parts of the names of a pooling's results.
_POOLED = frozenset((*get_args(PoolingMode), "pooled"))

#: Last parts of the names of the last layer's rows that are pooled, which the layer alone computes from there on.
_TAKEN: Mapping[str, PoolingMode] = MappingProxyType({"cls": "cls", "lasttoken": "lasttoken"})
_KEY = re.compile(r"layers\.(?P<layer>\d+)/(?P<part>.+)")


def find_points(model: onnx.ModelProto) -> list[GraphPoint]:
    """Return the points of a graph, in the order in which it computes them."""
    layers = _Layers()
    # Rows of the tables, for targets where the host looks them up (coreml).
    inputs = (info.name for info in model.graph.input if info.name.removeprefix("embeddings/") in EMBEDDING_POINTS)
    points = {name: GraphPoint(name, Kind.TOKENS, f"input {name}", name) for name in inputs}
    pooling = _first_pooling(model)
    kind, taken = Kind.TOKENS, None
    for node in model.graph.node:
        for value in node.output:
            stem, _, last = value.partition("/")
            if (stem == "embeddings" and last in EMBEDDING_POINTS) or value == "final_norm":
                points[value] = GraphPoint(value, kind, node.name, value, taken)
            elif module := _MODULE.fullmatch(value):
                # A module's result is the last value with its name: drop the earlier one, to keep the order.
                points.pop(module["module"], None)
                of_texts = pooling is not None and int(module["index"]) >= pooling
                shown = (Kind.TEXTS, None) if of_texts else (kind, taken)
                for key in (value, module["module"]) if module["part"] == "dense" else (module["module"],):
                    points[key] = GraphPoint(key, shown[0], node.name, value, shown[1])
            elif place := layers.find(value):
                if (mode := _TAKEN.get(value.rpartition("/")[2])) is not None:
                    kind, taken = Kind.TEXTS, mode  # from here on, the encoder has the rows of the pooled tokens alone
                for point in _points_of_layer(*place, node, value):
                    points[point.key] = point if taken is None else _pooled(point, taken)
    return list(points.values())


def hidden_points(model: onnx.ModelProto, points: Sequence[GraphPoint]) -> set[str]:
    """Return the keys of points that a graph computes inside an operator.

    Args:
        model: the graph.
        points: points that are values of the graph.
    """
    layers = _Layers()
    inside: set[str] = set()
    for node in model.graph.node:
        for value in node.output:
            layer, part = layers.find(value) or ("", value)
            inside.update(f"{layer}/{name}".removeprefix("/") for name in _INSIDE.get((node.op_type, part), ()))
    inside.update(f"{layer}/{score}" for layer in layers.names for score in SCORE_POINTS)
    return inside - {point.key for point in points}


class _Layers:
    """Layers of a graph, numbered in the order of computation."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    @property
    def names(self) -> Collection[str]:
        """Names of the layers that were found: `layers.0`, …"""
        return self._numbers.values()

    def find(self, value: str) -> tuple[str, str] | None:
        """Return the layer of a value, and its part in the layer: `layers.0` and `attention/query`."""
        match = _LAYER.fullmatch(value)
        if match is None:
            return None
        name = self._numbers.setdefault(match["prefix"], f"layers.{len(self._numbers)}")
        return name, match["part"]


def _pooled(point: GraphPoint, mode: PoolingMode) -> GraphPoint:
    """Return a point of a layer with the rows of the pooled tokens alone."""
    return replace(point, kind=point.kind if point.kind is Kind.SCORES else Kind.TEXTS, pooled=mode)


def _first_pooling(model: onnx.ModelProto) -> int | None:
    """Return the index of the first module with one vector per text; None if every token has a vector."""
    matches = (_MODULE.fullmatch(value) for node in model.graph.node for value in node.output)
    return min((int(match["index"]) for match in matches if match and match["part"] in _POOLED), default=None)


def title_of(point: GraphPoint | str) -> str:
    """Return the name of a point in reports.

    Args:
        point: a point, or the key of one that a graph lacks.
    """
    key = point if isinstance(point, str) else point.key
    if key.startswith("embeddings/"):
        return EMBEDDING_POINTS[key.removeprefix("embeddings/")]
    if match := _KEY.fullmatch(key):
        return f"layer {match['layer']}: {LAYER_POINTS[match['part']]}"
    if isinstance(point, GraphPoint) and key.startswith("modules."):
        return f"module {key.removeprefix('modules.').partition('/')[0]}: {point.value.rpartition('/')[2]}"
    return key.replace("_", " ")


def layer_of(key: str) -> int | None:
    """Return the layer that a point belongs to."""
    match = _KEY.fullmatch(key)
    return int(match["layer"]) if match else None


def is_whole(node: onnx.NodeProto) -> bool:
    """Return whether an `Attention` reads whole texts, by all tokens or the pooled ones; other scores are not compared."""
    return node.op_type == "Attention" and not node.name.endswith(
        ("/context_blocks", "/first/context", "/flash/context")
    )


def _points_of_layer(layer: str, part: str, node: onnx.NodeProto, value: str) -> list[GraphPoint]:
    whole = is_whole(node)
    if whole or part == "attention/weights":
        # Attention in standard operators scales the query before the product: raw scores do not exist.
        shown = [score for score in SCORE_POINTS if whole or score != "attention/raw_scores"]
        return [GraphPoint(f"{layer}/{score}", Kind.SCORES, node.name, value) for score in shown]
    return [GraphPoint(f"{layer}/{part}", Kind.TOKENS, node.name, value)] if part in LAYER_POINTS else []
