"""`operator_domains`: domains of the operators that a graph's file declares; `needs_kernels`: whether it has Fletcher's own.

The manifest says nothing about kernels: the graph does, so that the two cannot contradict each other, and a version of
Fletcher without kernels refuses the graph by the name of its operators.
"""

from __future__ import annotations

from typing import Final

from ..folder import Artifact
from ..manifest import Variant
from ..regular_file import read_regular
from .check import LARGEST_GRAPH
from .operators import FLETCHER
from .wire import read_fields, read_name

__all__ = ["needs_kernels", "operator_domains"]

#: Keys of `ModelProto.opset_import` and of `OperatorSetIdProto.domain`: number << 3 | wire type.
OPERATOR_SET: Final = 8 << 3 | 2
DOMAIN: Final = 1 << 3 | 2


def operator_domains(data: bytes) -> frozenset[str]:
    """Return the domains; that of standard operators is empty.

    Args:
        data: file of a graph.

    Raises:
        ArtifactError: the file is not a graph.
    """
    found = set()
    for key, start, end in read_fields(data, 0, len(data)):
        if key == OPERATOR_SET:
            names = [
                read_name(data, first, last) for kind, first, last in read_fields(data, start, end) if kind == DOMAIN
            ]
            found.add(names[-1] if names else "")
    return frozenset(found)


def needs_kernels(artifact: Artifact, variant: Variant) -> bool:
    """Return whether a variant's graph has operators of Fletcher's own, whose library a machine must have.

    Raises:
        ArtifactError: the file cannot be read, or is not a graph.
    """
    return FLETCHER in operator_domains(read_regular(artifact.path / variant.file, LARGEST_GRAPH))
