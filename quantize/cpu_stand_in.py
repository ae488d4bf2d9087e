"""Graphs for devices that are not here, on ONNX Runtime's CPU provider: what their nodes mean, not what a device does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Target, Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

__all__ = ["SHOWN_HERE", "vectors_elsewhere"]

#: Targets whose graphs have standard operators alone; that of CUDA has an attention that the CPU provider lacks.
SHOWN_HERE: tuple[Target, ...] = ("tensorrt", "coreml")


def vectors_elsewhere(
    artifact: Artifact, variants: Sequence[Variant], encodings: Encodings, *, batch: int = 16
) -> NDArray[np.float32]:
    """Vectors of texts, float32, (n, dimension), from graphs that are alike but for the texts that they take.

    Args:
        artifact: holds them.
        variants: one for texts of any length, or one a length bucket; a text goes to the shortest that holds it.
        encodings: the texts.
        batch: texts of a rectangle, where a graph takes several.
    """
    lengths = [np.inf if variant.feeds.shape is None else variant.feeds.shape[1] for variant in variants]
    order = sorted(range(len(variants)), key=lambda place: lengths[place])
    chosen = np.array([next(place for place in order if lengths[place] >= length) for length in encodings.lengths])
    vectors: NDArray[np.float32] | None = None
    for place, variant in enumerate(variants):
        rows = np.flatnonzero(chosen == place)
        if not len(rows):
            continue
        graph = CpuGraph((artifact.path / variant.file).read_bytes(), artifact.path)
        tables = artifact.tables(variant)
        size = batch if variant.feeds.shape is None else variant.feeds.shape[0]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            feeds = make_feeds(variant.inputs, variant.feeds, encodings.select(part), tables)
            found = graph.run(feeds, [variant.outputs[0].name])[0]
            if vectors is None:
                vectors = np.empty((len(encodings), found.shape[1]), np.float32)
            vectors[part] = found
    assert vectors is not None  # `encodings` has at least one text
    return vectors
