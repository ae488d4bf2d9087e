"""`SweepReport`: the results of a sweep, for one candidate and for all of them."""

from __future__ import annotations

import msgspec

from ..measure.quality import Quality
from ..measure.retrieval import StorageResult
from ..measure.speed import Speed
from ..recipe import Recipe
from ..sensitivity import Sensitivity

__all__ = ["Candidate", "SweepReport"]


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Candidate`: the result of one recipe, or of float32 itself.

    Attributes:
        name: name of the recipe, or `fp32`.
        description: one line of text.
        recipe: the recipe; None for float32.
        quality: accuracy against float32's vectors, or None if the recipe failed.
        speed: speed against float32 in the same rounds, or None if the recipe failed.
        file_bytes: size of graph and weights.
        size: that size relative to float32's.
        memory_bytes: resident memory after computing, minus that of a process without the model.
        seconds: time of making and measuring the candidate.
        problem: error message of a recipe that failed; empty otherwise.
        dropped: reason why the candidate is not considered; empty otherwise.
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
    """`SweepReport`: the result of a finished sweep.

    Attributes:
        model: name of the model.
        artifact: folder of the float32 artifact.
        digest: digest of the float32 artifact.
        proof: origin of its canary in words: how far float32's vectors, which the recipes are compared with, are proven.
        machine: the processor and the number of logical processors.
        provider: name of the provider that ran the float32 graph.
        texts: source of the texts.
        measured: number of measured texts; `judged` in JSON.
        calibrating: number of texts that calibrated recipes.
        pairs: number of labeled pairs.
        min_cosine: smallest cosine with float32 that a recommended recipe may leave any text.
        min_overlap: smallest share of float32's ten nearest neighbors that it may keep.
        parent: figures of float32.
        candidates: results of the recipes, in the order in which they were tried; `points` in JSON.
        pareto_front: names of float32 and of the candidates within the bounds that no other one beats; `front` in JSON.
        chosen: name of the recommended recipe, or None for float32.
        equals: names of the other recipes within the bounds whose throughput equals that of the fastest one.
        sentence: the recommendation with its reason.
        output: folder of the recommended artifact.
        sensitivity: damage of each matrix, or None if it was not measured.
        storage: results of the ways to store and search vectors.
        not_reached: recipes that the time budget left out.
        seconds: time of all runs of the sweep.
        tie_seconds: part of it that was spent on further rounds between recipes of overlapping speeds.
        time: end of the sweep, UTC.
        tools: versions of packages by name.
    """

    model: str
    artifact: str
    digest: str
    proof: str
    machine: str
    provider: str
    texts: str
    measured: int = msgspec.field(name="judged")
    calibrating: int
    pairs: int
    min_cosine: float
    min_overlap: float
    parent: Candidate
    candidates: tuple[Candidate, ...] = msgspec.field(name="points")
    pareto_front: tuple[str, ...] = msgspec.field(name="front")
    chosen: str | None
    equals: tuple[str, ...]
    sentence: str
    output: str
    sensitivity: Sensitivity | None
    storage: tuple[StorageResult, ...]
    not_reached: tuple[str, ...]
    seconds: float
    tie_seconds: float
    time: str
    tools: dict[str, str]
