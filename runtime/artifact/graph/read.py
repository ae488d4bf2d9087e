"""`read_graph`: read a variant's graph, and check it before another library parses it."""

from __future__ import annotations

import hashlib

from ...errors import ArtifactError, ChecksumError
from ..folder import Artifact
from ..manifest import Variant
from ..regular_file import read_regular
from .check import LARGEST_GRAPH, check_graph

__all__ = ["check_graphs", "read_graph"]


def read_graph(artifact: Artifact, variant: Variant) -> bytes:
    """Return the bytes of a variant's graph, whose sha256 is the manifest's and which `check_graph` accepts.

    Raises:
        ArtifactError: the file cannot be read, or is not a graph that Fletcher writes.
        ChecksumError: the file has another sha256 than the manifest states.
    """
    file = artifact.path / variant.file
    data = read_regular(file, LARGEST_GRAPH + 1)
    if hashlib.sha256(data).hexdigest() != artifact.manifest.files[variant.file].sha256:
        if len(data) > LARGEST_GRAPH:
            raise ArtifactError(
                f"{file} has more than {LARGEST_GRAPH} bytes, so it is not a graph that Fletcher writes"
            )
        raise ChecksumError(f"{file} has another sha256 than the manifest says: convert the checkpoint again")
    check_graph(data, variant, artifact.manifest.files[variant.weights].size)
    return data


def check_graphs(artifact: Artifact, variant: Variant) -> None:
    """Check each graph that a provider may open for a variant: its own, and those that differ only in their length.

    Raises:
        ArtifactError: as in `read_graph`.
        ChecksumError: as in `read_graph`.
    """
    for each in artifact.of_target(variant.target):
        if each.precision == variant.precision:
            read_graph(artifact, each)
