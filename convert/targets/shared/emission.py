"""What an emitter hands over: a graph, and what the manifest must say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fletcher.runtime.artifact.manifest import FeedRules, Profile

from ...graph.builder import GraphBuilder

__all__ = ["Emission"]


@dataclass(frozen=True, slots=True)
class Emission:
    """A graph of a target.

    Attributes:
        graph: the graph.
        suffix: of the variant's name, where a target has several graphs.
        feeds: how its inputs are made.
        profiles: shapes to build engines for.
        exporter: who wrote it: `fletcher`, or the tracer's name.
    """

    graph: GraphBuilder
    suffix: str = ""
    feeds: FeedRules = field(default_factory=FeedRules)
    profiles: tuple[Profile, ...] = ()
    exporter: str = "fletcher"
