"""`assign_schemes`: chooses the scheme of each matrix of a graph by a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from fletcher.runtime.errors import InputError

from ..recipe import MatrixScheme, Recipe
from .matrices import Place, check_patterns

__all__ = ["assign_schemes"]


def assign_schemes(recipe: Recipe, places: Sequence[Place]) -> dict[str, MatrixScheme]:
    """Return the scheme of each matrix that the recipe changes, by the matrix's name.

    Raises:
        InputError: the recipe names a matrix that the model does not have, or changes none.
    """
    check_patterns(recipe.patterns, [place.matrix.name for place in places])
    schemes: dict[str, MatrixScheme] = {}
    for place in places:
        name = place.matrix.name
        scheme = recipe.scheme_of(name)
        if place.matrix.kind == "table":
            half = recipe.scheme in ("fp16", "bf16")
            scheme = "fp32" if recipe.embeddings == "fp32" and not half else scheme
        if scheme != "fp32":
            schemes[name] = scheme
    if not schemes:
        raise InputError(f"the recipe {recipe.name} leaves every matrix in float32: exclude fewer matrices")
    return schemes
