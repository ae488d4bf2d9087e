"""`cpu_vectors`: runs a graph for an absent device on ONNX Runtime's CPU provider.

The vectors show what the graph's nodes compute. They do not show the rounding of the device's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import Target, Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

__all__ = ["STAND_IN_TARGETS", "cpu_vectors"]

#: Targets whose graphs have only standard operators; CUDA's graphs have an attention that the CPU provider lacks.
STAND_IN_TARGETS: tuple[Target, ...] = ("tensorrt", "coreml")


def cpu_vectors(
    artifact: Artifact, variants: Sequence[Variant], encodings: Encodings, *, batch: int = 16
) -> NDArray[np.float32]:
    """Return the vectors of texts from graphs that differ only in the lengths that they accept, (n, dimension).

    Args:
        artifact: the artifact of the graphs.
        variants: one graph for texts of any length, or one per length bucket; a text goes to the shortest bucket that
            holds it.
        encodings: the texts, at least one.
        batch: texts per call of a graph without a fixed shape.
    """
    lengths = [np.inf if variant.feeds.shape is None else variant.feeds.shape[1] for variant in variants]
    order = sorted(range(len(variants)), key=lambda index: lengths[index])
    chosen = np.array([next(index for index in order if lengths[index] >= length) for length in encodings.lengths])
    vectors: NDArray[np.float32] | None = None
    for index, variant in enumerate(variants):
        rows = np.flatnonzero(chosen == index)
        if not len(rows):
            continue
        graph = CpuGraph(read_graph(artifact, variant), artifact.path)
        tables = artifact.tables(variant)
        size = batch if variant.feeds.shape is None else variant.feeds.shape[0]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            feeds = make_feeds(variant.inputs, variant.feeds, encodings.select(part), tables)
            values = graph.run(feeds, [variant.outputs[0].name])[0]
            if vectors is None:
                vectors = np.empty((len(encodings), values.shape[1]), np.float32)
            vectors[part] = values
    assert vectors is not None  # `encodings` has at least one text
    return vectors
