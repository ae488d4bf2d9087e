"""`Matrix`: the matrices of an artifact's float32 graph, under the names that recipes, sensitivity and reports use."""

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

#: Name of the word table.
WORD_TABLE = "embeddings.word"

_LAYER = re.compile(r"^(?:.*\.)?(?:layers?|block)\.(\d+)/")


@dataclass(frozen=True, slots=True)
class Matrix:
    """`Matrix`: a matrix that can be quantized.

    Attributes:
        name: name in recipes: `layers.3.feed_forward.down`, `embeddings.word`.
        shape: (in, out) of a product, (rows, columns) of a table.
        num_bytes: size in float32.
        kind: `product` is the weight of a matrix product; `table` is a lookup table.
    """

    name: str
    shape: tuple[int, int]
    num_bytes: int
    kind: Literal["product", "table"] = "product"


@dataclass(frozen=True, slots=True)
class Place:
    """`Place`: a matrix and the node that reads it.

    Attributes:
        matrix: the matrix.
        node: name of the node.
        weight: name of the initializer.
    """

    matrix: Matrix
    node: str
    weight: str


def matrices(artifact: Path | Artifact) -> list[Matrix]:
    """Return the matrices of an artifact's float32 graph for processors, in the order of the computation.

    Raises:
        ArtifactError: the artifact cannot be read, or has no such graph.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    return [place.matrix for place in find_matrices(GraphEditor(artifact, float_variant(artifact)))]


def float_variant(artifact: Artifact) -> Variant:
    """Return the float32 graph for processors.

    Raises:
        ArtifactError: the artifact has no such graph.
    """
    return float_variants(artifact, "cpu")[0]


def float_variants(artifact: Artifact, target: Target) -> list[Variant]:
    """Return the graphs to quantize: float32 for processors; fp16 (CoreML has several), otherwise float32, for devices.

    Raises:
        ArtifactError: the artifact has no such graph.
    """
    precisions = ("fp32",) if target == "cpu" else ("fp16", "fp32")
    for precision in precisions:
        variants = [
            variant
            for variant in artifact.manifest.variants
            if variant.target == target and variant.precision == precision
        ]
        if variants:
            return variants
    names = ", ".join(variant.name for variant in artifact.manifest.variants)
    quantized = any(variant.recipe is not None for variant in artifact.manifest.variants)
    missing = " and no ".join(f"{target}-{precision}" for precision in precisions)
    problem = f"is quantized already ({names})" if quantized else f"has no {missing}, only {names}"
    raise ArtifactError(
        f"{artifact.path} {problem}: quantize the artifact that `fletcher-convert model export` wrote with "
        f"--target {target} --precision {precisions[0]}"
    )


def find_matrices(graph: GraphEditor) -> list[Place]:
    """Return every product with a two-dimensional weight of floats, and the word table."""
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
    """Return a matrix's name by its node's: layers.3.feed_forward.down for `encoder.layer.3/feed_forward/down/product`."""
    return _LAYER.sub(r"layers.\1.", node.removesuffix("/product")).replace("/", ".")


def check_patterns(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Check that each pattern matches a matrix.

    Raises:
        InputError: a pattern matches no matrix.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = get_close_matches(pattern, names, 3, 0.3) or names[:3]
            raise InputError(
                f"the recipe names {pattern!r}, which matches no matrix of this model: use one of its {len(names)} matrices, "
                f"such as {', '.join(close)}"
            )
