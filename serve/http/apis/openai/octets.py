"""Answers of `/v1/embeddings` as `application/octet-stream`: the rows of the vectors, and everything else in headers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import OptionError

from ...call import Response
from ...json import little_endian
from ..answers import TOKEN_HEADERS, token_headers

__all__ = ["OCTETS", "OCTET_HEADERS", "encode_octets"]

OCTETS: Final = b"application/octet-stream"

OCTET_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-embedding-count": "Number of rows, in an answer of octets",
        "x-embedding-dimension": "Number of elements in a row",
        "x-embedding-dtype": "Type of the elements: float32, float16, int8 or uint8 (eight bits of a binary vector)",
        "x-model": "Name of the model, with percent-encoding",
    }
    | dict(TOKEN_HEADERS)
)


def encode_octets(embeddings: Embeddings, model: str) -> Response:
    """Return the answer: the rows of the vectors, little-endian, one after the other without gaps.

    Args:
        embeddings: answer of the engine.
        model: name of the model.

    Raises:
        OptionError: the vectors have parts for which a row has no place.
    """
    if embeddings.chunks is not None:
        raise OptionError(
            "overflow", "a long text would give several vectors, and an answer of octets has one row a text"
        )
    if embeddings.scales is not None:
        raise OptionError(
            "dtype", "int8 vectors of this model have scales, for which octets have no place: use float16"
        )
    vectors = little_endian(embeddings.vectors)
    count, size = vectors.shape
    headers = (
        (b"x-embedding-count", b"%d" % count),
        (b"x-embedding-dimension", b"%d" % size),
        (b"x-embedding-dtype", vectors.dtype.newbyteorder("=").name.encode()),
        (b"x-model", quote(model).encode()),
        *token_headers(embeddings.tokens, embeddings.dropped),
    )
    return Response(200, vectors.tobytes(), OCTETS, headers, "raw")
