"""`operator_domains`: domains of the operators that a graph's file declares."""

from __future__ import annotations

from typing import Final

from .wire import read_fields, read_name

__all__ = ["operator_domains"]

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
