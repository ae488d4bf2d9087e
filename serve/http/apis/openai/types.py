"""OpenAI's shapes as structs: requests and answers of `/v1/embeddings` and `/v1/models`.

Fletcher adds the request's `input_type`, and each item's `tokens_seen` and `tokens_dropped`. OpenAI's own clients ignore
fields that they do not use.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.model_zoo.card import Output
from fletcher.runtime.options.embed import EmbedOptions

from ...embedding_items import EmbeddingItem, TokenId, Usage

__all__ = ["MAX_INPUTS", "EmbeddingList", "EmbeddingRequest", "Model", "ModelList"]

#: OpenAI's own limit.
MAX_INPUTS = 2048

_IDS_SCHEMA: Final = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

#: msgspec takes one kind of list in a union; `read_inputs` tells the four shapes apart, and the schema names them.
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
