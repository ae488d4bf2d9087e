"""Routes of the OpenAI API: `/v1/embeddings`, its path in Azure OpenAI, and `/v1/models`."""

from __future__ import annotations

from functools import partial

import msgspec

from fletcher.runtime import TextOutputs
from fletcher.runtime.inputs import Texts, TokenIds, with_included
from fletcher.runtime.options.embed import EmbedOptions

from ....errors import FieldError
from ....json_bodies import decode
from ....models.named import NamedModel
from ....models.version import ModelVersion
from ...call import Call, Response
from ...coding.answers import Density
from ...errors import OPENAI
from ...ndjson import NDJSON, stream
from ...route import Doc, Route, named_part
from ..foreign_fields import EMBEDDING, schemas, translate
from .codec import describe, encode_embeddings, encode_outputs, list_models, read_inputs
from .octets import OCTET_HEADERS, OCTETS, encode_octets
from .types import DeploymentRequest, EmbeddingBody, EmbeddingList, EmbeddingRequest, Model, ModelList

__all__ = ["openai_routes"]

#: Path of the description of a model.
ONE_MODEL = "/v1/models/{id}"

#: Path of a deployment in Azure OpenAI. Its query `api-version` does not matter here.
AZURE = "/openai/deployments/{model}/embeddings"

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_deployment_decoder = msgspec.json.Decoder(DeploymentRequest)


async def embed(call: Call) -> Response:
    """Return the vectors of texts or token ids."""
    request = decode(_decoder, await call.body(), partial(translate, EMBEDDING, call))
    return await _answer(call, request, request.model)


async def embed_deployment(call: Call) -> Response:
    """Return the vectors of a request to Azure's path, which has the name of the model; the body may leave it out."""
    request = decode(_deployment_decoder, await call.body(), partial(translate, EMBEDDING, call))
    return await _answer(call, request, named_part(call.scope["path"], AZURE))


async def _answer(call: Call, request: EmbeddingBody, model: str) -> Response:
    options = EmbedOptions.of(request)
    accept = call.headers.get(b"accept", b"")
    streamed = NDJSON in accept
    inputs = read_inputs(request, None if streamed else call.limits)
    if isinstance(inputs, TokenIds):
        _check_ids_options(request)
        if streamed:
            raise FieldError("input holds token ids, but a streamed request must hold texts", "input")
    elif request.special_tokens is not None:
        raise FieldError("special_tokens is for token ids, and input holds texts: leave it out", "special_tokens")
    elif streamed:
        if request.include is not None:
            raise FieldError("include is set, but a streamed answer has vectors alone: leave it out", "include")
        if request.encoding_format == "bytes":
            raise FieldError(
                "encoding_format is 'bytes', but a streamed answer has lines of JSON: use base64", "encoding_format"
            )
        return await stream(call, model, inputs.texts, options, request.encoding_format, OPENAI)
    if request.include is not None:
        return await _answer_several(call, request, model, inputs, options)
    version, embeddings = await call.ask(model, inputs, options)
    name = version.description.name
    if request.encoding_format == "bytes" or OCTETS in accept:
        call.limits.budget.hold(embeddings.vectors.nbytes, call.draft)  # the answer is one more copy
        return encode_octets(embeddings, name)
    density: Density = "base64" if request.encoding_format == "base64" else "text"
    body = await encode_embeddings(embeddings, name, call.draft.space, request.encoding_format)
    return Response(200, body, density=density)


async def _answer_several(
    call: Call, request: EmbeddingBody, model: str, inputs: Texts | TokenIds, options: EmbedOptions
) -> Response:
    """Return vectors with the further outputs that the request includes."""
    if request.encoding_format == "bytes" or OCTETS in call.headers.get(b"accept", b""):
        raise FieldError("include is set, but an answer of bytes has vectors alone: use float or base64", "include")
    outputs: TextOutputs
    version, outputs = await call.ask(model, inputs, options, with_included(request.include))
    body = await encode_outputs(outputs, version.description.name, call.draft.space, request.encoding_format)
    return Response(200, body, density="base64" if request.encoding_format == "base64" else "text")


def _check_ids_options(request: EmbeddingBody) -> None:
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
    entry: NamedModel | ModelVersion = call.models.find(named_part(call.scope["path"], ONE_MODEL))
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
                "request may have up to 65,536 texts. With `Accept: application/octet-stream`, the body is the rows of the "
                "vectors, little-endian and without gaps.",
                headers=OCTET_HEADERS,
                example={"input": ["a text", "another"], "model": "MODEL", "encoding_format": "float"},
                answers={
                    OCTETS.decode(): {"type": "string", "format": "binary", "description": "Rows of the vectors"},
                    NDJSON.decode(): {
                        "type": "string",
                        "description": "One EmbeddingItem on each line; the last line has the usage",
                    },
                },
                errors=(404,),
                foreign=schemas(EMBEDDING),
            ),
            also=("/embeddings", "/openai/v1/embeddings"),
        ),
        Route(
            "POST",
            AZURE,
            embed_deployment,
            Doc(
                "createDeploymentEmbeddings",
                "Azure OpenAI: embed texts or token ids with the model in the path",
                DeploymentRequest,
                EmbeddingList,
                text="The same as `/v1/embeddings`. Azure's clients send their key in the header `api-key`.",
                example={"input": ["a text", "another"]},
                errors=(404,),
                foreign=schemas(EMBEDDING),
            ),
        ),
        Route("GET", "/v1/models", models, Doc("listModels", "List the served models", None, ModelList)),
        Route("GET", ONE_MODEL, one_model, Doc("getModel", "Describe one model", None, Model, errors=(404,))),
    ]
