"""Routes of Ollama's API. As in Ollama, texts get no prompt unless `input_type` asks for one.

A request without a text asks Ollama to load the model. It is answered without vectors, once the model's name is known.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from fletcher import __version__
from fletcher.model_zoo.card import RAW
from fletcher.runtime import Embeddings
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ....errors import FieldError
from ....json_bodies import decode
from ....models.version import ModelVersion
from ....statuses import public_message
from ...call import Call, Response
from ...errors import ErrorShape, http_status
from ...json import json_numbers, json_rows
from ...route import Doc, Route
from ..answers import TOKEN_HEADERS, check_count, token_headers
from .types import (
    MAX_INPUTS,
    EmbedAnswer,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    EmbedRequest,
    OllamaDetails,
    OllamaError,
    OllamaModel,
    OllamaModels,
    OllamaVersion,
)

__all__ = ["ollama_routes"]

#: Tag that Ollama's clients may put after the name of a model.
LATEST = ":latest"

_embed = msgspec.json.Decoder(EmbedRequest)
_embeddings = msgspec.json.Decoder(EmbeddingsRequest)


def _encode(error: FletcherError, request_id: str) -> bytes:
    return msgspec.json.encode(OllamaError(public_message(error)))


OLLAMA = ErrorShape(http_status, _encode, OllamaError)


async def embed(call: Call) -> Response:
    """Return vectors of length 1 for texts, as Ollama does."""
    started = time.perf_counter_ns()
    request = decode(_embed, await call.body())
    if not request.input:
        call.pick(_name(call, request.model))
        answer = EmbedAnswer(model=request.model, embeddings=[], total_duration=0, load_duration=0, prompt_eval_count=0)
        return Response(200, msgspec.json.encode(answer))
    texts = [request.input] if isinstance(request.input, str) else request.input
    check_count(call, len(texts), "input", MAX_INPUTS)
    options = EmbedOptions(
        input_type=request.input_type or RAW,
        overflow="truncate" if request.truncate else "refuse",
        dimensions=request.dimensions or None,
        normalize=True,
    )
    _, embeddings = await _ask(call, request, texts, options)
    answer = EmbedAnswer(
        model=request.model,
        embeddings=json_rows(embeddings.vectors),
        total_duration=time.perf_counter_ns() - started,
        load_duration=0,
        prompt_eval_count=int(embeddings.tokens.sum()),
    )
    return Response(200, msgspec.json.encode(answer), headers=token_headers(embeddings.tokens, embeddings.dropped))


async def embeddings(call: Call) -> Response:
    """Return the vector of one text."""
    request = decode(_embeddings, await call.body())
    if not request.prompt:
        call.pick(_name(call, request.model))
        return Response(200, msgspec.json.encode(EmbeddingsAnswer([])))
    options = EmbedOptions(input_type=request.input_type or RAW)
    call.items = lambda index: "prompt"
    _, vectors = await _ask(call, request, [request.prompt], options)
    answer = EmbeddingsAnswer(json_numbers(vectors.vectors[0]))
    return Response(200, msgspec.json.encode(answer), headers=token_headers(vectors.tokens, vectors.dropped))


async def _ask(
    call: Call, request: EmbedRequest | EmbeddingsRequest, texts: list[str], options: EmbedOptions
) -> tuple[ModelVersion, Embeddings]:
    """Return the vectors of texts.

    Raises:
        FieldError: the request has a shorter `num_ctx` than the model.
        FletcherError: as of `Call.ask`.
    """
    name = _name(call, request.model)
    limit = call.pick(name).description.max_tokens
    length = (request.options or {}).get("num_ctx")
    if isinstance(length, int) and 0 < length < limit:
        raise FieldError(
            f"options.num_ctx is {length}, but the model always reads up to {limit} tokens: leave it out",
            "options.num_ctx",
        )
    return await call.ask(name, Texts(tuple(texts)), options)


def _name(call: Call, name: str) -> str:
    """Return the name of a model without the tag `:latest`, unless a model has a name with this tag."""
    return name if call.models.has(name) else name.removesuffix(LATEST)


async def tags(call: Call) -> Response:
    """Return the served models."""
    return Response(200, msgspec.json.encode(OllamaModels([_describe(m.answering[0]) for m in call.models.named])))


def _describe(version: ModelVersion) -> OllamaModel:
    served = version.description
    family = version.info.card.family
    return OllamaModel(
        name=served.name,
        model=served.name,
        modified_at=datetime.fromtimestamp(served.loaded, UTC).isoformat(),
        size=0,
        digest=served.digest,
        details=OllamaDetails(
            format="onnx",
            family=family,
            families=[family],
            parameter_size="",
            quantization_level=served.variant.rpartition("-")[2],
        ),
    )


async def version(call: Call) -> Response:
    """Return the version of the server."""
    return Response(200, msgspec.json.encode(OllamaVersion(__version__)))


def ollama_routes() -> list[Route]:
    """Return the routes."""
    common: dict[str, Any] = {"errors": (404,), "headers": TOKEN_HEADERS}
    return [
        Route(
            "POST",
            "/api/embed",
            embed,
            Doc(
                "ollamaEmbed",
                "Ollama: embed texts; the vectors have length 1",
                EmbedRequest,
                EmbedAnswer,
                example={"model": "MODEL", "input": ["a text", "another"]},
                **common,
            ),
            OLLAMA,
        ),
        Route(
            "POST",
            "/api/embeddings",
            embeddings,
            Doc(
                "ollamaEmbeddings",
                "Ollama: embed one text",
                EmbeddingsRequest,
                EmbeddingsAnswer,
                example={"model": "MODEL", "prompt": "a text"},
                **common,
            ),
            OLLAMA,
        ),
        Route(
            "GET", "/api/tags", tags, Doc("ollamaTags", "Ollama: list the served models", None, OllamaModels), OLLAMA
        ),
        Route(
            "GET",
            "/api/version",
            version,
            Doc("ollamaVersion", "Ollama: return the version of the server", None, OllamaVersion),
            OLLAMA,
            access="open",
        ),
    ]
