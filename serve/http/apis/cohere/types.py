"""Cohere v2's shapes as structs: what `POST /v2/embed` takes and gives."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.runtime.options.embed import Overflow

__all__ = ["MAX_TEXTS", "ByType", "CohereRequest", "CohereResponse", "EmbeddingType"]

#: Cohere's own limit.
MAX_TEXTS: Final = 96

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an input: text is all that there is here."""

    type: Literal["text"]
    text: str


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input in parts."""

    content: Annotated[list[Content], Meta(min_length=1)]


class CohereRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /v2/embed` takes: `texts` or `inputs`."""

    model: str
    input_type: Annotated[
        str,
        Meta(
            description="`search_document`, `search_query`, `classification`, `clustering`, or an input type of ours."
        ),
    ]
    texts: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_TEXTS})] | None = None
    inputs: Annotated[list[Input], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_TEXTS})] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    output_dimension: Annotated[Annotated[int, Meta(ge=1, lt=1 << 31)] | None, Meta(description="A length.")] = None
    truncate: Annotated[Literal["NONE", "START", "END"], Meta(description="Which end is cut; NONE refuses.")] = "END"
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, lt=1 << 31)] | None,
        Meta(description="Not below the model's own limit: use `window_tokens` with `overflow`."),
    ] = None
    priority: Annotated[Annotated[int, Meta(ge=0, le=999)] | None, Meta(description="Cohere's; 0 goes first.")] = None
    overflow: Annotated[Overflow | None, Meta(description="As in `/v1/embeddings`; goes before `truncate`.")] = None
    window_tokens: int | None = None
    overlap_tokens: int | None = None
    chunk_tokens: int | None = None
    normalize: bool | None = None


class ByType(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"floats": "float"}):
    """The vectors in each type that was asked for."""

    floats: list[list[float]] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[bytes] | None = None


class ApiVersion(msgspec.Struct, frozen=True):
    """Which of Cohere's APIs this is."""

    version: str = "2"


class Tokens(msgspec.Struct, frozen=True):
    """Tokens that the model saw."""

    input_tokens: int


class CohereMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the request cost, and what became of each text.

    Attributes:
        scales: of int8 vectors: what their elements are multiplied with.
    """

    api_version: ApiVersion
    billed_units: Tokens
    tokens: Tokens
    tokens_seen: list[int]
    tokens_dropped: list[int]
    scales: list[float] | None = None


class CohereResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v2/embed` gives."""

    id: str
    embeddings: ByType
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
