"""Structs of Ollama's API: `/api/embed`, `/api/embeddings`, `/api/tags` and `/api/version`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fletcher.runtime.options.embed import InputType

__all__ = [
    "MAX_INPUTS",
    "EmbedAnswer",
    "EmbedRequest",
    "EmbeddingsAnswer",
    "EmbeddingsRequest",
    "OllamaDetails",
    "OllamaError",
    "OllamaModel",
    "OllamaModels",
    "OllamaVersion",
]

#: Largest number of texts in a request, as in OpenAI's API.
MAX_INPUTS: Final = 2048

KeepAlive = Annotated[float | str | None, Meta(description="Accepted and not used: models stay loaded.")]

OllamaOptions = Annotated[
    dict[str, Any] | None,
    Meta(
        description="Options of Ollama. Those of generation and hardware are not used, because they cannot change a vector. "
        "`num_ctx` must be at least the limit of the model.",
        extra_json_schema={"properties": {"num_ctx": {"type": "integer"}}},
    ),
]


class EmbedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /api/embed`."""

    model: str
    input: Annotated[
        str | list[str],
        Meta(
            description="A text, or a list of texts. Without a text there are no vectors in the answer.",
            extra_json_schema={
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "maxItems": MAX_INPUTS},
                ]
            },
        ),
    ] = ""
    truncate: Annotated[bool, Meta(description="false rejects a text that is too long.")] = True
    dimensions: Annotated[
        Annotated[int, Meta(ge=0, lt=1 << 31)] | None, Meta(description="Length of the vectors. 0: the full one.")
    ] = None
    options: OllamaOptions = None
    keep_alive: KeepAlive = None
    input_type: InputType = None


class EmbedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /api/embed`. Durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /api/embeddings`, which Ollama has replaced by `/api/embed`."""

    model: str
    prompt: Annotated[str, Meta(description="A text. Without one, the vector of the answer is empty.")] = ""
    options: OllamaOptions = None
    keep_alive: KeepAlive = None
    input_type: InputType = None


class EmbeddingsAnswer(msgspec.Struct, frozen=True):
    """Answer of `POST /api/embeddings`."""

    embedding: list[float]


class OllamaDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Details of a model."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    """A served model. `size` is 0, because a loaded model has no size on disk."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(msgspec.Struct, frozen=True):
    """Answer of `GET /api/tags`."""

    models: list[OllamaModel]


class OllamaVersion(msgspec.Struct, frozen=True):
    """Answer of `GET /api/version`: the version of Fletcher."""

    version: str


class OllamaError(msgspec.Struct, frozen=True):
    """Body of an error of Ollama."""

    error: str
