"""The points at which a graph is compared: which of its values mean what, and in which order they are computed.

Points are found by the names that the emitters give their nodes. A point's `key` is the same on every target and for the
reference model, whatever the family calls its layers: `layers.3/attention/query`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import get_args

import onnx

from fletcher.model_zoo.card import PoolingMode

from ..graph.norms import SUMMED_NORMS

__all__ = [
    "EMBEDDING_POINTS",
    "LAYER_POINTS",
    "SCORE_POINTS",
    "GraphPoint",
    "Kind",
    "find_points",
    "kept_points",
    "layer_of",
    "title_of",
]


class Kind(Enum):
    """What the first axes of a value count."""

    TOKENS = "tokens"  # (tokens, width) packed, or (texts, longest, width)
    SCORES = "scores"  # (texts, heads, longest, longest)
    TEXTS = "texts"  # (texts, width)


@dataclass(frozen=True, slots=True)
class GraphPoint:
    """A value of a graph that is compared.

    Attributes:
        key: its name in every graph and in the reference.
        kind: its layout.
        node: the node that computes it.
        value: the node's output; scores are not it, but come with it, see `scores.py`.
    """

    key: str
    kind: Kind
    node: str
    value: str


EMBEDDING_POINTS: Mapping[str, str] = MappingProxyType(
    {
        "word": "word embedding",
        "with_token_type": "word and token type embedding",
        "position": "position embedding",
        "sum": "sum of the embeddings",
        "norm": "LayerNorm of the embeddings",
        "projection": "projection of the embeddings",
    }
)

#: What the operator `Attention` keeps to itself, in the order in which it computes it.
SCORE_POINTS: Mapping[str, str] = MappingProxyType(
    {
        "attention/raw_scores": "raw scores",
        "attention/scaled_scores": "scaled scores",
        "attention/mask": "mask: who may be seen",
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
        "feed_forward/up": "up projection",
        "feed_forward/gate": "gate projection",
        "feed_forward/activation": "activation",
        "feed_forward/gated": "gated activation",
        "feed_forward/down": "down projection",
        "feed_forward/norm_after": "LayerNorm of the down projection",
        "feed_forward/residual": "feed-forward residual",
        "feed_forward/norm": "LayerNorm of the feed-forward part",
    }
)


def _summed(value: str, *hidden: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the entries of `_KEPT` for operators that sum before they norm."""
    return {(operator, value): hidden for operator in SUMMED_NORMS.values()}


#: What operators of several steps keep to themselves (target cuda): by operator and the value that it gives.
_KEPT: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        **_summed("embeddings/norm", "embeddings/with_token_type", "embeddings/sum"),
        # What it takes may be sorted otherwise than the model's own query and key.
        ("PackedMultiHeadAttention", "attention/context"): (
            "attention/query",
            "attention/key",
            "attention/value",
            "attention/query/rotated",
            "attention/key/rotated",
        ),
        **_summed("attention/norm", "attention/output", "attention/residual"),
        ("BiasGelu", "feed_forward/activation"): ("feed_forward/up",),
        ("FastGelu", "feed_forward/activation"): ("feed_forward/up",),
        **_summed("feed_forward/norm", "feed_forward/down", "feed_forward/residual"),
    }
)

_LAYER = re.compile(r"(?P<prefix>.+?)/(?P<part>(attention|feed_forward)/.+)")
_MODULE = re.compile(r"(?P<module>modules\.(?P<index>\d+))/(?P<part>.+)")

#: Last parts of the names of what a pooling gives; several modes are joined.
_POOLED = frozenset((*get_args(PoolingMode), "pooled"))
_KEY = re.compile(r"layers\.(?P<layer>\d+)/(?P<part>.+)")


def find_points(model: onnx.ModelProto) -> list[GraphPoint]:
    """The points of a graph, in the order in which it computes them."""
    layers = _Layers()
    # Rows of the tables, where the host looks them up (coreml).
    inputs = (info.name for info in model.graph.input if info.name.removeprefix("embeddings/") in EMBEDDING_POINTS)
    points = {name: GraphPoint(name, Kind.TOKENS, f"input {name}", name) for name in inputs}
    pooled = _first_pooling(model)
    for node in model.graph.node:
        for value in node.output:
            stem, _, last = value.partition("/")
            if (stem == "embeddings" and last in EMBEDDING_POINTS) or value == "final_norm":
                points[value] = GraphPoint(value, Kind.TOKENS, node.name, value)
            elif module := _MODULE.fullmatch(value):
                # What a module gives is the last value that bears its name: drop the earlier one, to keep the order.
                points.pop(module["module"], None)
                kind = Kind.TEXTS if pooled is not None and int(module["index"]) >= pooled else Kind.TOKENS
                if module["part"] == "dense":
                    points[value] = GraphPoint(value, kind, node.name, value)
                points[module["module"]] = GraphPoint(module["module"], kind, node.name, value)
            elif found := layers.find(value):
                for point in _points_of_layer(*found, node, value):
                    points[point.key] = point
    return list(points.values())


def kept_points(model: onnx.ModelProto, points: Sequence[GraphPoint]) -> set[str]:
    """Keys of points that a graph computes inside an operator and does not show.

    Args:
        model: the graph.
        points: those that it shows.
    """
    layers = _Layers()
    kept: set[str] = set()
    for node in model.graph.node:
        for value in node.output:
            layer, part = layers.find(value) or ("", value)
            kept.update(f"{layer}/{name}".removeprefix("/") for name in _KEPT.get((node.op_type, part), ()))
    kept.update(f"{layer}/{score}" for layer in layers.names for score in SCORE_POINTS)
    return kept - {point.key for point in points}


class _Layers:
    """The layers of a graph, numbered as they come, whatever the family calls them."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    @property
    def names(self) -> Collection[str]:
        """Of those that were found: `layers.0`, …"""
        return self._numbers.values()

    def find(self, value: str) -> tuple[str, str] | None:
        """The layer that a value belongs to, and what it is there: `layers.0` and `attention/query`."""
        match = _LAYER.fullmatch(value)
        if match is None:
            return None
        name = self._numbers.setdefault(match["prefix"], f"layers.{len(self._numbers)}")
        return name, match["part"]


def _first_pooling(model: onnx.ModelProto) -> int | None:
    """Index of the first module that gives a vector a text; None where every token keeps its own."""
    found = (_MODULE.fullmatch(value) for node in model.graph.node for value in node.output)
    return min((int(match["index"]) for match in found if match and match["part"] in _POOLED), default=None)


def title_of(point: GraphPoint | str) -> str:
    """A point's name for people.

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
    """The layer that a point belongs to."""
    match = _KEY.fullmatch(key)
    return int(match["layer"]) if match else None


def _points_of_layer(layer: str, part: str, node: onnx.NodeProto, value: str) -> list[GraphPoint]:
    if node.op_type == "Attention" or part == "attention/weights":
        # Where attention is spelled out, the query is scaled before the product: raw scores do not exist.
        shown = [score for score in SCORE_POINTS if node.op_type == "Attention" or score != "attention/raw_scores"]
        return [GraphPoint(f"{layer}/{score}", Kind.SCORES, node.name, value) for score in shown]
    return [GraphPoint(f"{layer}/{part}", Kind.TOKENS, node.name, value)] if part in LAYER_POINTS else []
