"""What a sweep found out about one recipe, and about all of them."""

from __future__ import annotations

import msgspec

from ..measure.measurement import Quality, Speed
from ..measure.retrieval import StorageResult
from ..recipe import Recipe
from ..sensitivity import Sensitivity

__all__ = ["Point", "SweepReport"]


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One recipe's result.

    Attributes:
        name: the recipe's, or `fp32`.
        description: a line.
        recipe: how it was made; None for float32.
        quality: against float32's vectors, or None where it failed.
        speed: beside float32 in the same rounds, or None where it failed.
        file_bytes: graph and weights.
        size: as a share of float32's.
        memory_bytes: resident after computing, above a process without the model.
        seconds: that making and measuring it took.
        problem: why it failed; empty where it did not.
        dropped: why it is not kept; empty where it is.
    """

    name: str
    description: str = ""
    recipe: Recipe | None = None
    quality: Quality | None = None
    speed: Speed | None = None
    file_bytes: int = 0
    size: float = 1.0
    memory_bytes: int | None = None
    seconds: float = 0.0
    problem: str = ""
    dropped: str = ""


class SweepReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finished sweep.

    Attributes:
        model: the card's name.
        artifact: the float32 artifact's folder.
        digest: its digest.
        machine: processor and how many of them.
        provider: what ran the graphs.
        texts: where they come from.
        judged: how many were judged by.
        calibrating: how many others recipes and stored vectors learned from.
        pairs: how many judged pairs, 0 for none.
        min_cosine, min_overlap: the bounds.
        parent: float32's own figures.
        points: the recipes, in the order in which they were tried.
        front: names that no other point beats.
        chosen: the recommendation, or None for float32.
        sentence: the recommendation with its reason.
        output: the chosen artifact's folder, or float32's.
        sensitivity: damage by matrix, or None where it was not measured.
        storage: ways to store the vectors.
        not_reached: recipes for which the budget had no time.
        seconds: of all runs together.
        time: of the end, UTC.
        tools: versions.
    """

    model: str
    artifact: str
    digest: str
    machine: str
    provider: str
    texts: str
    judged: int
    calibrating: int
    pairs: int
    min_cosine: float
    min_overlap: float
    parent: Point
    points: tuple[Point, ...]
    front: tuple[str, ...]
    chosen: str | None
    sentence: str
    output: str
    sensitivity: Sensitivity | None
    storage: tuple[StorageResult, ...]
    not_reached: tuple[str, ...]
    seconds: float
    time: str
    tools: dict[str, str]
