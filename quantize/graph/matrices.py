"""The matrices of an artifact's float32 graph, by names that recipes, sensitivity and reports share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import onnx

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Target, Variant
from fletcher.runtime.errors import ArtifactError, InputError

from .editor import GraphEditor

__all__ = [
    "WORD_TABLE",
    "Matrix",
    "Place",
    "check_patterns",
    "find_matrices",
    "float_variant",
    "float_variants",
    "matrices",
]

#: The name of the table of word vectors.
WORD_TABLE = "embeddings.word"

_LAYER = re.compile(r"^(?:.*\.)?layers?\.(\d+)/")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that can be quantized.

    Attributes:
        name: as recipes say it: `layers.3.feed_forward.down`, `embeddings.word`.
        shape: of a product (in, out), of a table (rows, columns).
        num_bytes: in float32.
        kind: `product` is multiplied with, `table` is looked up.
    """

    name: str
    shape: tuple[int, int]
    num_bytes: int
    kind: Literal["product", "table"] = "product"


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix and the node that reads it.

    Attributes:
        matrix: the matrix.
        node: its name in the graph.
        weight: the initializer.
    """

    matrix: Matrix
    node: str
    weight: str


def matrices(artifact: Path | Artifact) -> list[Matrix]:
    """The matrices of an artifact's float32 graph for processors, in the order of computing.

    Raises:
        ArtifactError: it is no artifact, or has no such graph.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    return [place.matrix for place in find_matrices(GraphEditor(artifact, float_variant(artifact)))]


def float_variant(artifact: Artifact) -> Variant:
    """The float32 graph for processors.

    Raises:
        ArtifactError: there is none.
    """
    return float_variants(artifact, "cpu")[0]


def float_variants(artifact: Artifact, target: Target) -> list[Variant]:
    """The graphs that are quantized: in float32 for processors, in fp16 for devices (CoreML has several), or else float32.

    Raises:
        ArtifactError: there is none.
    """
    precisions = ("fp32",) if target == "cpu" else ("fp16", "fp32")
    for precision in precisions:
        found = [
            variant
            for variant in artifact.manifest.variants
            if variant.target == target and variant.precision == precision
        ]
        if found:
            return found
    names = ", ".join(variant.name for variant in artifact.manifest.variants)
    quantized = any(variant.recipe is not None for variant in artifact.manifest.variants)
    wanted = " and no ".join(f"{target}-{precision}" for precision in precisions)
    what = f"is quantized already ({names})" if quantized else f"has no {wanted} but {names}"
    raise ArtifactError(
        f"{artifact.path} {what}: quantize the artifact that `fletcher-convert model export` wrote with "
        f"--target {target} --precision {precisions[0]}"
    )


def find_matrices(graph: GraphEditor) -> list[Place]:
    """Every product with a two-dimensional weight of floats, and the table of word vectors."""
    places = []
    for node in graph.nodes:
        if node.op_type == "MatMul" and graph.is_weight(node.input[1]):
            places.append(_place(graph, node, node.input[1], "product"))
        elif node.op_type == "Gather" and node.name == "embeddings/word" and graph.is_weight(node.input[0]):
            places.append(_place(graph, node, node.input[0], "table"))
    return [place for place in places if place is not None]


def _place(graph: GraphEditor, node: onnx.NodeProto, weight: str, kind: Literal["product", "table"]) -> Place | None:
    shape = graph.shape(weight)
    if len(shape) != 2 or graph.weights[weight].data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        return None
    name = WORD_TABLE if kind == "table" else _name(node.name)
    rows, columns = shape
    return Place(Matrix(name, (rows, columns), 4 * rows * columns, kind), node.name, weight)


def _name(node: str) -> str:
    """`encoder.layer.3/feed_forward/down/product` is layers.3.feed_forward.down."""
    return _LAYER.sub(r"layers.\1.", node.removesuffix("/product")).replace("/", ".")


def check_patterns(patterns: Iterable[str], names: Iterable[str]) -> None:
    """
    Raises:
        InputError: a pattern fits no matrix.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = get_close_matches(pattern, names, 3, 0.3) or names[:3]
            raise InputError(
                f"the recipe names {pattern!r}, which is no matrix of this model: it has {len(names)}, "
                f"like {', '.join(close)}"
            )
