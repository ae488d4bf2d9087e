"""`SweepInputs`: the inputs of one run of a sweep, and the quantizing of one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fletcher.model_zoo.progress import Progress
from fletcher.runtime.artifact.folder import Artifact

from ..measure.runnable_variant import RunnableVariant
from ..measure.texts import SplitTexts
from ..quantized_artifact import quantize
from ..recipe import Recipe
from .options import SweepOptions

__all__ = ["PROVIDER", "RUNS_ON", "SweepInputs", "quantize_into", "runnable_of"]

#: Provider of the float32 graph, and the provider of a recipe's graph by the recipe's target.
PROVIDER: Final = "mlas"
RUNS_ON: Final[Mapping[str, str]] = MappingProxyType({"cpu": PROVIDER, "openvino": "openvino"})

#: Texts that `quantize` measures before `measure_quality` measures all.
FIRST_LOOK = 64


@dataclass(frozen=True, slots=True)
class SweepInputs:
    """`SweepInputs`: the inputs of one run of a sweep.

    Attributes:
        parent: the float32 variant.
        texts: calibrating and measured texts.
        options: bounds, budgets and recipes.
        output: folder of the sweep.
        progress: receives lines and counts.
    """

    parent: RunnableVariant
    texts: SplitTexts
    options: SweepOptions
    output: Path
    progress: Progress


def quantize_into(inputs: SweepInputs, recipe: Recipe, folder: Path) -> None:
    """Write the artifact of a recipe."""
    texts = inputs.texts
    quantize(inputs.parent.artifact, folder, recipe, texts=texts.measured[:FIRST_LOOK], calibration=texts.calibrating)


def runnable_of(inputs: SweepInputs, recipe: Recipe, folder: Path) -> RunnableVariant:
    """Write the artifact of a recipe, and return its graph with the provider that runs it."""
    quantize_into(inputs, recipe, folder)
    artifact = Artifact.open(folder)
    (variant,) = artifact.manifest.variants
    return RunnableVariant(artifact, variant, RUNS_ON[recipe.target])
