"""`default_recipes`: the recipes that a sweep tries unless the user names some."""

from __future__ import annotations

from typing import Final

import msgspec

from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.cpu_features import lacking
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.selection import find_provider

from ..quantized_artifact import INSTRUCTIONS
from ..recipe import DEFAULT_RECIPE, Recipe, builtin_recipes
from ..sensitivity import Sensitivity, exclude_greedily

__all__ = ["default_recipes", "exclusion_base", "without_worst_matrices"]

#: Order of trial: the most promising recipes first, for a short time budget.
ORDER: Final = ("int8-per-token", "mixed", "int8-static", "w8", "w4", "bf16", "fp16", "int8-dynamic")

#: Shares of the base recipe's whole damage that remain after exclusions.
REMAINING_SHARES: Final = (0.5, 0.25)


def default_recipes(source: Variant) -> list[Recipe]:
    """Return the built-in recipes that this machine runs, in the order of trial.

    Args:
        source: the float32 variant.
    """
    built_in = builtin_recipes()
    names: list[str] = [name for name in ORDER if name in built_in]
    names += [name for name, recipe in built_in.items() if recipe.target == "cpu" and name not in ORDER]
    if missing(find_provider("openvino"), this_machine()) is None:
        names[2:2] = [name for name, recipe in built_in.items() if recipe.target == "openvino"]
    able = _multiplies_bytes(source)
    # Recipes with 7-bit weights are for processors without the instructions for 8-bit weights.
    unfit = {name for name in names if built_in[name].reduced_range == able and _has_integers(built_in[name])}
    return [built_in[name] for name in names if name not in unfit]


def exclusion_base(source: Variant) -> Recipe:
    """Return the recipe whose damage by matrix is measured.

    Args:
        source: the float32 variant.
    """
    return builtin_recipes()[DEFAULT_RECIPE if _multiplies_bytes(source) else f"{DEFAULT_RECIPE}-reduced"]


def without_worst_matrices(base: Recipe, sensitivity: Sensitivity) -> list[Recipe]:
    """Return the base recipe with the matrices excluded that do the most damage, one recipe per remaining share.

    Args:
        base: the recipe.
        sensitivity: its damage by matrix.
    """
    whole = sum(max(damage.loss, 0.0) for damage in sensitivity.damages)
    recipes: list[Recipe] = []
    for share in REMAINING_SHARES:
        names = exclude_greedily(sensitivity, whole * share)
        all_excluded = len(names) >= len(sensitivity.damages)
        if not names or all_excluded or any(recipe.exclude == names for recipe in recipes):
            continue
        count = len(sensitivity.damages)
        recipes.append(
            msgspec.structs.replace(
                base,
                name=f"{base.name}-without-{len(names)}",
                scheme="mixed",
                exclude=names,
                description=f"{base.name} with {len(names)} of {count} matrices left in float32, those that lose the most",
            )
        )
    return recipes


def _multiplies_bytes(source: Variant) -> bool:
    """Return whether this machine multiplies bytes without saturation."""
    return not lacking(msgspec.structs.replace(source, instructions=(INSTRUCTIONS,)), this_machine())


def _has_integers(recipe: Recipe) -> bool:
    return recipe.scheme in ("int8-per-token", "int8-static", "int8-dynamic", "mixed")
