"""text-embeddings-inference's shapes as structs, with Fletcher's options beside TEI's own."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.runtime.options.embed import EmbedOptions, InputType, Overflow, VectorFields

from ...embedding_items import ChunkItem, TokenId, Vector

__all__ = [
    "MAX_INPUTS",
    "AllItem",
    "EmbedAllRequest",
    "EmbedItem",
    "EmbedRequest",
    "Info",
    "Rank",
    "RerankRequest",
    "SimilarityRequest",
    "SparseRequest",
    "SparseValue",
    "Token",
    "TokenizeRequest",
]

#: Texts of a request: TEI's default is 32; so many still tell their tokens in a header that proxies let pass.
MAX_INPUTS: Final = 512

_IDS_SCHEMA: Final = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1}

Inputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    Meta(
        description="A text, a list of texts, one text's token ids, or a list of token id lists.",
        extra_json_schema={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS},
                _IDS_SCHEMA,
                {"type": "array", "items": _IDS_SCHEMA, "minItems": 1, "maxItems": MAX_INPUTS},
            ],
        },
    ),
]

Texts = Annotated[
    str | list[str],
    Meta(
        description="A text, or a list of texts.",
        extra_json_schema={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS},
            ]
        },
    ),
]

Model = Annotated[str | None, Meta(description="A model of this server; the first that has the output if left out.")]
Truncate = Annotated[
    bool | None, Meta(description="false refuses too long a text; true, or nothing, cuts it and says by how much.")
]
Direction = Annotated[Literal["Left", "Right", "left", "right"], Meta(description="Which end is cut.")]
PromptName = Annotated[str | None, Meta(description="TEI's name of `input_type`; nothing means no prompt.")]


def overflow_of(truncate: bool | None, direction: str, overflow: Overflow | None = None) -> Overflow:
    """What TEI's two fields, or Fletcher's one, say."""
    if overflow is not None:
        return overflow
    if truncate is False:
        return "refuse"
    return "truncate_left" if direction.lower() == "left" else "truncate"


def input_type_of(prompt_name: str | None, input_type: str | None) -> str:
    """Which prompt: TEI adds none unless it is named."""
    return input_type or prompt_name or "raw"


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What TEI's routes share."""

    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    model: Model = None

    @property
    def token_options(self) -> EmbedOptions:
        """Prompt and truncation."""
        return EmbedOptions(
            input_type=input_type_of(self.prompt_name, self.input_type),
            overflow=overflow_of(self.truncate, self.truncation_direction),
        )


class EmbedRequest(VectorFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /embed` takes."""

    inputs: Inputs
    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    normalize: Annotated[bool, Meta(description="Whether vectors get length 1.")] = True
    overflow: Annotated[Overflow | None, Meta(description="As in `/v1/embeddings`; goes before `truncate`.")] = None
    detail: Annotated[
        bool, Meta(description="Objects with tokens seen and dropped, scale and chunks, instead of bare vectors.")
    ] = False
    model: Model = None

    def __post_init__(self) -> None:
        """Nothing to check: msgspec has checked the fields while it decoded them."""

    @property
    def options(self) -> EmbedOptions:
        """How its texts become vectors."""
        overflow = overflow_of(self.truncate, self.truncation_direction, self.overflow)
        input_type = input_type_of(self.prompt_name, self.input_type)
        return EmbedOptions.of(self, input_type=input_type, overflow=overflow)


class EmbedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text's vector, where `detail` was asked for."""

    embedding: Vector
    tokens_seen: int
    tokens_dropped: int
    scale: float | None = None
    chunks: list[ChunkItem] | None = None


class EmbedAllRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /embed_all` takes."""

    inputs: Texts
    detail: Annotated[bool, Meta(description="Objects with tokens seen and dropped.")] = False


class AllItem(msgspec.Struct, frozen=True, kw_only=True):
    """A text's token vectors, where `detail` was asked for."""

    embeddings: list[list[float]]
    tokens_seen: int
    tokens_dropped: int


class SparseRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /embed_sparse` takes."""

    inputs: Texts


class SparseValue(msgspec.Struct, frozen=True):
    """A token's weight."""

    index: int
    value: float


class RerankRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /rerank` takes."""

    query: str
    texts: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_INPUTS})]
    truncate: Truncate = None
    truncation_direction: Annotated[
        Literal["Right", "right"], Meta(description="Of a pair the longer text is cut at its end.")
    ] = "Right"
    raw_scores: Annotated[bool, Meta(description="Logits, instead of their sigmoid.")] = False
    return_text: bool = False
    model: Model = None


class Rank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text's place."""

    index: int
    score: float
    text: str | None = None


class SimilarityInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sentence, and those that it is compared with."""

    source_sentence: str
    sentences: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_INPUTS - 1})]


class SimilarityParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How they become vectors."""

    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    overflow: Overflow | None = None


class SimilarityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /similarity` takes."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None
    model: Model = None


class TokenizeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `POST /tokenize` takes."""

    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: PromptName = None
    input_type: InputType = None
    model: Model = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token; `start` and `stop` are places in the text, and nothing for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /info` gives; TEI's names where they mean the same."""

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, str]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
