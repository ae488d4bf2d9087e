"""Structs of the OpenAI API: requests and answers of `/v1/embeddings` and `/v1/models`.

Fletcher adds `input_type` to the request, and `tokens_seen` and `tokens_dropped` to each item. The clients of OpenAI ignore
fields that they do not use.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.model_zoo.card import Output, Similarity
from fletcher.runtime.artifact.manifest import Proof
from fletcher.runtime.inputs import IncludeField
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.space.bounds import Bounds

from ...embedding_items import EmbeddingItem, TokenId, Usage

__all__ = [
    "MAX_INPUTS",
    "DeploymentRequest",
    "EmbeddingBody",
    "EmbeddingList",
    "EmbeddingRequest",
    "Model",
    "ModelList",
]

#: Limit of OpenAI itself.
MAX_INPUTS = 2048

_IDS_SCHEMA: Final = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

#: msgspec allows only one list type in a union. `read_inputs` distinguishes the four shapes, and the schema names them.
Input = Annotated[
    str | list[str | TokenId | list[TokenId]],
    Meta(
        description="A text, a list of texts, the token ids of one text, or a list of token id lists. Token "
        "ids are this model's and include its special tokens; others are refused.",
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


class EmbeddingBody(EmbedOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of a request for vectors, without the name of the model."""

    input: Input
    encoding_format: Annotated[
        Literal["float", "base64", "bytes"],
        Meta(
            description="`base64` encodes the bytes of little-endian float32 values, four for each dimension. `bytes` "
            "answers with these bytes alone, as `application/octet-stream`, and with the counts in headers."
        ),
    ] = "float"
    special_tokens: Annotated[
        bool | None,
        Meta(
            description="Whether the token ids of `input` include the model's special tokens; `false` adds them. Only for "
            "token ids. Default: true."
        ),
    ] = None
    include: IncludeField = None
    user: Annotated[str | None, Meta(description="Accepted for the clients of OpenAI; not used and not logged.")] = None

    def __post_init__(self) -> None:
        """Check nothing: msgspec has checked the fields while it decoded them."""


class EmbeddingRequest(EmbeddingBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /v1/embeddings`."""

    model: Annotated[str, Meta(description="Name of a served model; `/v1/models` lists them.")]


class DeploymentRequest(EmbeddingBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request to the path of a deployment in Azure OpenAI."""

    model: Annotated[str | None, Meta(description="Not used: the path has the name of the model.")] = None


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage
    space: Annotated[str, Meta(description="Identifier of the vectors' space; see `/v1/space`.")] = ""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served model: the four fields of OpenAI, and fields that describe its vectors."""

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
    canary: Proof
    proof: str
    space: Annotated[str, Meta(description="Identifier of the vectors' space; see `/v1/space`.")]
    bounds: Annotated[Bounds | None, Meta(description="How far two vectors of this space may differ.")]
    similarity: Similarity | msgspec.UnsetType = msgspec.UNSET
    includes: Annotated[
        list[Output] | msgspec.UnsetType, Meta(description="Further outputs that a request can include.")
    ] = msgspec.UNSET
    token_dimension: Annotated[
        int | msgspec.UnsetType, Meta(description="Length of the vectors of tokens among them.")
    ] = msgspec.UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]
