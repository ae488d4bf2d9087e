"""Structs of the API of text-embeddings-inference (TEI), with options of Fletcher added."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fletcher.runtime.options.embed import EmbedOptions, InputType, Overflow, VectorFields

from ...embedding_items import ChunkItem, TokenId, Vector
from ..answers import MAX_INPUTS, Texts
from ..ranking import Documents, RankOptions

__all__ = [
    "AllItem",
    "EmbedAllRequest",
    "EmbedItem",
    "EmbedRequest",
    "Info",
    "Rank",
    "RerankRequest",
    "SimilarityRequest",
    "SparseRequest",
    "Token",
    "TokenizeRequest",
]

_IDS_SCHEMA: Final = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1}

Inputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    Meta(
        description="A text, a list of texts, the token ids of one text, or a list of token id lists.",
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

Model = Annotated[
    str | None, Meta(description="Name of a served model. Default: the first model with the requested output.")
]
Truncate = Annotated[
    bool | None,
    Meta(
        description="false rejects a text that is too long; true cuts it and reports the number of cut tokens. Default: true."
    ),
]
Direction = Annotated[Literal["Left", "Right", "left", "right"], Meta(description="End at which a long text is cut.")]
PromptName = Annotated[str | None, Meta(description="Name of `input_type` in TEI. Default: no prompt.")]


def overflow_of(truncate: bool | None, direction: str, overflow: Overflow | None = None) -> Overflow:
    """Return the overflow option. `overflow` has precedence over the two fields of TEI."""
    if overflow is not None:
        return overflow
    if truncate is False:
        return "refuse"
    return "truncate_left" if direction.lower() == "left" else "truncate"


def input_type_of(prompt_name: str | None, input_type: str | None) -> str:
    """Return the input type. Without a name, the texts do not get a prompt, as in TEI."""
    return input_type or prompt_name or "raw"


def fields_of(prompt_name: str | None, input_type: str | None, prefix: str = "") -> dict[str, str]:
    """Return the names of a request's fields for `Call.fields`.

    Args:
        prompt_name: the request's field of that name.
        input_type: the request's field of that name; it has precedence over `prompt_name`.
        prefix: path of the object that holds the options.
    """
    name = "prompt_name" if prompt_name and not input_type else "input_type"
    return {"input": "inputs", "input_type": prefix + name, "overflow": f"{prefix}overflow"}


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields that several routes of TEI share."""

    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    model: Model = None

    @property
    def token_options(self) -> EmbedOptions:
        """Return the options for prompt and truncation."""
        return EmbedOptions(
            input_type=input_type_of(self.prompt_name, self.input_type),
            overflow=overflow_of(self.truncate, self.truncation_direction),
        )


class EmbedRequest(VectorFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /embed`."""

    inputs: Inputs
    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    normalize: Annotated[bool, Meta(description="Scale vectors to length 1.")] = True
    overflow: Annotated[Overflow | None, Meta(description="Same as in `/v1/embeddings`; it overrides `truncate`.")] = (
        None
    )
    special_tokens: Annotated[
        bool | None,
        Meta(description="Same as in `/v1/embeddings`: `false` adds the model's special tokens to token ids."),
    ] = None
    detail: Annotated[
        bool, Meta(description="Return objects with token counts, scale and chunks instead of bare vectors.")
    ] = False
    model: Model = None

    def __post_init__(self) -> None:
        """Check nothing: msgspec has checked the fields while it decoded them."""

    @property
    def options(self) -> EmbedOptions:
        """Return the options for embedding."""
        overflow = overflow_of(self.truncate, self.truncation_direction, self.overflow)
        input_type = input_type_of(self.prompt_name, self.input_type)
        return EmbedOptions.of(self, input_type=input_type, overflow=overflow)


class EmbedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer for a text if `detail` is true."""

    embedding: Vector
    tokens_seen: int
    tokens_dropped: int
    scale: float | None = None
    chunks: list[ChunkItem] | None = None


class EmbedAllRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /embed_all`."""

    inputs: Texts
    detail: Annotated[bool, Meta(description="Return objects with token counts instead of bare vectors.")] = False


class AllItem(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `/embed_all` for a text if `detail` is true."""

    embeddings: list[list[float]]
    tokens_seen: int
    tokens_dropped: int


class SparseRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /embed_sparse`."""

    inputs: Texts


class RerankRequest(RankOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /rerank`, with either `texts` as in TEI, or `documents` as in the APIs of Jina, vLLM and infinity."""

    texts: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_INPUTS})] | None = None
    documents: Documents | None = None
    truncation_direction: Annotated[
        Literal["Right", "right"], Meta(description="A long pair is cut at the end of its longer text.")
    ] = "Right"
    return_text: Annotated[bool, Meta(description="Return the texts, if the request has `texts`.")] = False


class Rank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rank of a text."""

    index: int
    score: float
    text: str | None = None


class SimilarityInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sentence and the sentences to compare it with."""

    source_sentence: str
    sentences: Annotated[list[str], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_INPUTS - 1})]


class SimilarityParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options for embedding the sentences."""

    truncate: Truncate = None
    truncation_direction: Direction = "Right"
    prompt_name: PromptName = None
    input_type: InputType = None
    overflow: Overflow | None = None


class SimilarityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /similarity`."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None
    calibrated: Annotated[
        bool, Meta(description="Return probabilities by the calibration of the model instead of cosines.")
    ] = False
    model: Model = None


class TokenizeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /tokenize`."""

    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: PromptName = None
    input_type: InputType = None
    model: Model = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token. `start` and `stop` are its position in the text; they are null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /info`. A field has the name of the field of TEI with the same meaning."""

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
