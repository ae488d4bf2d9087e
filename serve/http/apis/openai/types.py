"""OpenAI's shapes as structs: what `/v1/embeddings` and `/v1/models` take and give, and their errors.

Extensions of Fletcher's: the request's `input_type`, and each item's `tokens_seen` and `tokens_dropped`. OpenAI's own clients
ignore what they do not know.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.model_zoo.card import Output
from fletcher.runtime.embed_options import EmbedOptions

__all__ = [
    "MAX_INPUTS",
    "ChunkItem",
    "EmbeddingItem",
    "EmbeddingList",
    "EmbeddingRequest",
    "ErrorBody",
    "ErrorDetail",
    "Model",
    "ModelList",
    "Usage",
]

#: OpenAI's own limit.
MAX_INPUTS = 2048

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

_IDS_SCHEMA: Final = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

#: msgspec takes one kind of list in a union; `openai_input` tells the four shapes apart, and the schema names them.
Input = Annotated[
    str | list[str | TokenId | list[TokenId]],
    Meta(
        description="A text, a list of texts, one text's token ids, or a list of token id lists (special tokens included).",
        extra_json_schema={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS},
                _IDS_SCHEMA,
                {"type": "array", "items": _IDS_SCHEMA, "minItems": 1, "maxItems": MAX_INPUTS},
            ],
            "examples": ["a text", ["a text", "another"]],
        },
    ),
]


class EmbeddingRequest(EmbedOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /v1/embeddings` takes."""

    input: Input
    model: Annotated[str, Meta(description="Name of the served model, as `/v1/models` lists it.")]
    encoding_format: Annotated[
        Literal["float", "base64"],
        Meta(description="`base64` is the bytes of little-endian float32, four a dimension."),
    ] = "float"
    user: Annotated[str | None, Meta(description="Accepted for OpenAI's clients; neither used nor logged.")] = None

    def __post_init__(self) -> None:
        """Nothing to check: msgspec has checked the fields while it decoded them."""

    @property
    def options(self) -> EmbedOptions:
        """How its texts become vectors."""
        return EmbedOptions.of(self)


Vector = list[float] | bytes


class ChunkItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a text that was split."""

    embedding: Vector
    start: Annotated[int, Meta(description="Its first token, of the text's own.")]
    end: Annotated[int, Meta(description="The token behind its last one.")]
    scale: Annotated[float | None, Meta(description="Of an int8 vector.")] = None


class EmbeddingItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One text's vector."""

    object: Annotated[str, Meta(extra_json_schema={"const": "embedding"})]
    index: int
    embedding: Vector
    tokens_seen: Annotated[int, Meta(description="Tokens that the model saw, special ones included.")]
    tokens_dropped: Annotated[int, Meta(description="Tokens that truncation cut.")]
    scale: Annotated[float | None, Meta(description="Of an int8 vector: what its elements are multiplied with.")] = None
    chunks: Annotated[list[ChunkItem] | None, Meta(description="The text's parts, where it was split.")] = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that the model computed."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v1/embeddings` gives."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One served model; OpenAI's four fields, and what a client of vectors wants to know."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    dimension: int
    dimensions: list[int]
    max_tokens: int
    input_types: list[str]
    variant: str
    provider: str
    digest: str
    output: Output
    version: str
    names: list[str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /v1/models` gives."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Every error's body."""

    error: ErrorDetail
