"""`QuantizationPlan`: everything that decides the nodes of a quantized graph, for training that imitates them.

It has the products that `quantized_artifact` rewrites, with their schemes and statistics, and knows no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import InputError

from .calibration import calibrate, needs_calibration
from .graph.activations import Activations, lower_bounds
from .graph.editor import GraphEditor
from .graph.matrices import WORD_TABLE, find_matrices, float_variant
from .graph.schemes import assign_schemes
from .recipe import MatrixScheme, Recipe

__all__ = ["TRAINED_SCHEMES", "PlannedProduct", "QuantizationPlan", "plan_quantization"]

#: Schemes whose arithmetic a training can imitate. `int8-dynamic` depends on the batch, and the others round weights alone.
TRAINED_SCHEMES: tuple[MatrixScheme, ...] = ("int8-per-token", "int8-static", "fp32")


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """`PlannedProduct`: one product that a recipe quantizes.

    Attributes:
        name: name of the matrix.
        weight: the weight in float32, (in, out).
        scheme: `int8-per-token` or `int8-static`.
        bound: largest distance of the activations below zero, if the graph uses all 256 steps for it; None for even steps.
        activations: statistics of the activations; None if the recipe needs none.
    """

    name: str
    weight: NDArray[np.float32]
    scheme: MatrixScheme
    bound: float | None
    activations: Activations | None


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """`QuantizationPlan`: products and word table of a graph that a recipe quantizes.

    Attributes:
        recipe: the recipe.
        products: the quantized products, in the order of the computation.
        table: whether the word table has bytes with a scale per row.
        activations: statistics by matrix, for `quantize`; None if the recipe needs none.
    """

    recipe: Recipe
    products: tuple[PlannedProduct, ...]
    table: bool
    activations: Mapping[str, Activations] | None


def plan_quantization(artifact: Artifact, recipe: Recipe, texts: Sequence[str]) -> QuantizationPlan:
    """Return the plan of an artifact's float32 graph for processors.

    Args:
        artifact: the artifact.
        recipe: a recipe for the targets `cpu` or `openvino`, with schemes of `TRAINED_SCHEMES`.
        texts: texts to calibrate with.

    Raises:
        InputError: the recipe has another target, scheme or table, names a matrix that the model does not have, or there are
            too few texts.
        ArtifactError: the artifact has no such graph.
    """
    if recipe.target not in ("cpu", "openvino"):
        raise InputError(
            f"the recipe {recipe.name} is for the target {recipe.target}: training imitates those for cpu and openvino"
        )
    if recipe.embeddings == "int4" or recipe.search:
        raise InputError(
            f"the recipe {recipe.name} has int4 embeddings or a search for scales, which training does not imitate"
        )
    graph = GraphEditor(artifact, float_variant(artifact))
    places = find_matrices(graph)
    schemes = assign_schemes(recipe, places)
    table = schemes.pop(WORD_TABLE, "fp32") != "fp32"
    for name, scheme in schemes.items():
        if scheme not in TRAINED_SCHEMES:
            raise InputError(
                f"the recipe {recipe.name} has the scheme {scheme} for {name}: training imitates {', '.join(TRAINED_SCHEMES)}"
            )
    activations = calibrate(artifact, recipe, schemes, texts) if needs_calibration(recipe, schemes.values()) else None
    inputs = {node.name: node.input[0] for node in graph.nodes if node.op_type == "MatMul"}
    bounds = lower_bounds(graph.nodes)
    products = tuple(
        PlannedProduct(
            name=place.matrix.name,
            weight=np.asarray(graph.values(place.weight), np.float32),
            scheme=schemes[place.matrix.name],
            bound=bounds.get(inputs[place.node]) if recipe.asymmetric else None,
            activations=None if activations is None else activations[place.matrix.name],
        )
        for place in places
        if place.matrix.name in schemes
    )
    return QuantizationPlan(recipe, products, table, activations)
