"""`Emission`: a graph that an emitter wrote, and its entries of the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field

from fletcher.runtime.artifact.manifest import FeedRules, Profile

from ...graph.builder import GraphBuilder

__all__ = ["Emission"]


@dataclass(frozen=True, slots=True)
class Emission:
    """Graph of a target.

    Attributes:
        graph: the graph.
        suffix: suffix of the variant's name, for targets with several graphs.
        feeds: rules for the inputs.
        profiles: shapes for which TensorRT builds engines.
        exporter: `fletcher`, or the name of the tracer.
        gaps: parts that have standard operators although Fletcher's kernels were asked for, and the reasons, in words.
    """

    graph: GraphBuilder
    suffix: str = ""
    feeds: FeedRules = field(default_factory=FeedRules)
    profiles: tuple[Profile, ...] = ()
    exporter: str = "fletcher"
    gaps: tuple[str, ...] = ()
