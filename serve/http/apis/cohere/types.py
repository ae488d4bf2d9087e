"""Structs of the Cohere API: requests and answers of `POST /v1/embed` and `POST /v2/embed`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.runtime.options.embed import Overflow

from ...embedding_items import SparseValue, Vector

__all__ = [
    "MAX_TEXTS",
    "ByType",
    "CohereBody",
    "CohereFloats",
    "CohereRequest",
    "CohereResponse",
    "CohereV1Request",
    "EmbeddingType",
]

#: Limit of Cohere itself.
MAX_TEXTS: Final = 96

#: Types of vectors in Cohere's API, and the further outputs of models that have them (BGE-M3).
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64", "sparse", "token_vectors"]


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an input. Only text is supported."""

    type: Literal["text"]
    text: str


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input in parts."""

    content: Annotated[list[Content], Meta(min_length=1)]


InputType = Annotated[
    str,
    Meta(
        description="`search_document`, `search_query`, `classification`, `clustering`, or an input type of the model."
    ),
]


class CohereBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of both versions of the request, with either `texts` or `inputs`."""

    texts: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_TEXTS})] | None = None
    inputs: Annotated[list[Input], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_TEXTS})] | None = None
    embedding_types: Annotated[list[EmbeddingType], Meta(min_length=1)] | None = None
    output_dimension: Annotated[
        Annotated[int, Meta(ge=1, lt=1 << 31)] | None, Meta(description="Length of the vectors. Default: the full one.")
    ] = None
    truncate: Annotated[
        Literal["NONE", "START", "END"], Meta(description="End at which a long text is cut; NONE rejects it.")
    ] = "END"
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, lt=1 << 31)] | None,
        Meta(description="At least the limit of the model. For shorter windows, use `window_tokens` with `overflow`."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=999)] | None,
        Meta(description="Priority as Cohere defines it; 0 is the most urgent."),
    ] = None
    overflow: Annotated[Overflow | None, Meta(description="Same as in `/v1/embeddings`; it overrides `truncate`.")] = (
        None
    )
    window_tokens: int | None = None
    overlap_tokens: int | None = None
    chunk_tokens: int | None = None
    normalize: bool | None = None


class CohereRequest(CohereBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /v2/embed`."""

    model: str
    input_type: InputType


class CohereV1Request(CohereBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /v1/embed`."""

    model: Annotated[
        str | None, Meta(description="Name of a served model. Default: the first model that gives vectors.")
    ] = None
    input_type: Annotated[InputType | None, Meta(description="Default: `search_document`.")] = None


class ByType(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"floats": "float"}):
    """Vectors in each requested type."""

    floats: list[list[float]] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[bytes] | None = None
    sparse: Annotated[
        list[list[SparseValue]] | None, Meta(description="Weights of the vocabulary's tokens of each text.")
    ] = None
    token_vectors: Annotated[
        list[list[Vector]] | None, Meta(description="Vector of each token but the first of each text.")
    ] = None


class ApiVersion(msgspec.Struct, frozen=True):
    """Version of the Cohere API."""

    version: Literal["1", "2"]


class Tokens(msgspec.Struct, frozen=True):
    """Tokens that the model saw."""

    input_tokens: int


class CohereMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts of the request and of each of its texts.

    Attributes:
        space: identifier of the space of the vectors.
        scales: factors by which the elements of each int8 or uint8 vector are multiplied; None for other types.
    """

    api_version: ApiVersion
    billed_units: Tokens
    tokens: Tokens
    tokens_seen: list[int]
    tokens_dropped: list[int]
    space: str = ""
    scales: list[float] | None = None


class CohereFloats(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /v1/embed` without `embedding_types`."""

    id: str
    embeddings: list[list[float]]
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_floats"] = "embeddings_floats"


class CohereResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer with vectors by type: of `POST /v2/embed`, and of `POST /v1/embed` with `embedding_types`."""

    id: str
    embeddings: ByType
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
