"""Routes of the OpenAI API: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import msgspec

from fletcher.runtime.inputs import TokenIds
from fletcher.runtime.options.embed import EmbedOptions

from ....errors import FieldError
from ....json_bodies import decode
from ....models.named import NamedModel
from ....models.version import ModelVersion
from ...call import Call, Response
from ...errors import OPENAI
from ...ndjson import NDJSON, stream
from ...route import Doc, Route
from .codec import describe, encode_embeddings, list_models, read_inputs
from .types import EmbeddingList, EmbeddingRequest, Model, ModelList

__all__ = ["openai_routes"]

_decoder = msgspec.json.Decoder(EmbeddingRequest)


async def embed(call: Call) -> Response:
    """Return the vectors of texts or token ids."""
    request = decode(_decoder, await call.body())
    options = EmbedOptions.of(request)
    streamed = b"accept" in call.headers and call.wants(NDJSON)
    inputs = read_inputs(request, None if streamed else call.limits)
    if isinstance(inputs, TokenIds):
        _check_ids_options(request)
        if streamed:
            raise FieldError("input holds token ids, but a streamed request must hold texts", "input")
    elif request.special_tokens is not None:
        raise FieldError("special_tokens is for token ids, and input holds texts: leave it out", "special_tokens")
    elif streamed:
        return await stream(call, request.model, inputs.texts, options, request.encoding_format, OPENAI)
    version, embeddings = await call.ask(request.model, inputs, options)
    model = version.description.name
    return Response(200, await encode_embeddings(embeddings, model, call.draft.space, request.encoding_format))


def _check_ids_options(request: EmbeddingRequest) -> None:
    if request.input_type not in (None, "raw"):
        raise FieldError(
            f"input_type is {request.input_type!r}, but token ids do not get a prompt: leave it out, or send texts",
            "input_type",
        )
    if request.overflow != "truncate":
        raise FieldError(
            f"overflow is {request.overflow!r}, but token ids are always truncated at their end: leave it out, or send texts",
            "overflow",
        )


async def models(call: Call) -> Response:
    """Return the served models."""
    served = [model.answering[0].description for model in call.models.named]
    return Response(200, msgspec.json.encode(list_models(served)))


async def one_model(call: Call) -> Response:
    """Return one model by its name, alias or `name@version`."""
    entry: NamedModel | ModelVersion = call.models.find(call.scope["path"].removeprefix("/v1/models/"))
    version = entry.answering[0] if isinstance(entry, NamedModel) else entry
    return Response(200, msgspec.json.encode(describe(version.description)))


def openai_routes() -> list[Route]:
    """Return the routes."""
    return [
        Route(
            "POST",
            "/v1/embeddings",
            embed,
            Doc(
                "createEmbeddings",
                "Embed texts or token ids",
                EmbeddingRequest,
                EmbeddingList,
                text="OpenAI's embeddings API. The vector of a text does not depend on other texts or requests. With "
                "`Accept: application/x-ndjson`, each text is answered with a line as soon as its vector is computed; such a "
                "request may have up to 65,536 texts.",
                example={"input": ["a text", "another"], "model": "MODEL", "encoding_format": "float"},
                answers={
                    NDJSON.decode(): {
                        "type": "string",
                        "description": "One EmbeddingItem on each line; the last line has the usage",
                    }
                },
                errors=(404,),
            ),
        ),
        Route("GET", "/v1/models", models, Doc("listModels", "List the served models", None, ModelList)),
        Route("GET", "/v1/models/{id}", one_model, Doc("getModel", "Describe one model", None, Model, errors=(404,))),
    ]
