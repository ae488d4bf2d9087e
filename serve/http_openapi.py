"""The OpenAPI 3.1 document, made of the structs that the routes decode and encode, so that it cannot drift from them."""

from __future__ import annotations

from typing import Any

import msgspec

from fletcher import __version__

from .openai_types import MAX_INPUTS, EmbeddingList, EmbeddingRequest, ErrorBody, Model, ModelList

__all__ = ["openapi_document"]

Schema = dict[str, Any]


class Health(msgspec.Struct, frozen=True):
    """`ok` as long as the process answers."""

    status: str


class Ready(msgspec.Struct, frozen=True):
    """`ready` and where the model runs, or `not ready` with the reason.

    Attributes:
        fallback: why another provider runs than the one that was wanted, where that was allowed.
    """

    status: str
    reason: str | msgspec.UnsetType = msgspec.UNSET
    provider: str | msgspec.UnsetType = msgspec.UNSET
    fallback: str | msgspec.UnsetType = msgspec.UNSET


def openapi_document(max_body_bytes: int) -> Schema:
    """The document, ready to encode as JSON.

    Args:
        max_body_bytes: the limit above which a body is refused.
    """
    structs = [EmbeddingRequest, EmbeddingList, Model, ModelList, ErrorBody, Health, Ready]
    schemas, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    request, embeddings, model, models, error, health, ready = schemas

    def refusal(text: str) -> Schema:
        return _answer(text, error) | {"headers": _ID_HEADER}

    def busy(text: str) -> Schema:
        answer = refusal(text)
        return answer | {"headers": answer["headers"] | _RETRY_HEADER}

    example = {"input": ["a text", "another"], "model": "MODEL", "encoding_format": "float"}
    embed = {
        "operationId": "createEmbeddings",
        "summary": "Texts or token ids to vectors",
        "description": "OpenAI's embeddings API. Vectors do not depend on what else is in the request or on the server.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": example}},
            "description": f"At most {max_body_bytes} bytes and {MAX_INPUTS} inputs.",
        },
        "responses": {
            "200": _answer("The vectors, in the order of the inputs", embeddings),
            "400": refusal("The request cannot be used as it is; `param` names the field"),
            "404": refusal("The model is not served here"),
            "413": refusal("The body is too large"),
            "429": busy("Too much waits already"),
            "500": refusal("The model failed; the server's log has the details"),
            "503": busy("The server is stopping"),
        },
    }
    identifier = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fletcher",
            "version": __version__,
            "description": "Text embeddings that are the published model's own: checked against it when the server starts.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/embeddings": {"post": embed},
            "/v1/models": {"get": _get("listModels", "The models that are served", models)},
            "/v1/models/{id}": {
                "get": _get("getModel", "One model", model, {"404": refusal("There is no such model")})
                | {"parameters": [identifier]}
            },
            "/health": {"get": _get("health", "Whether the process lives", health)},
            "/ready": {
                "get": _get(
                    "ready",
                    "Whether the model's canary passed on the session that answers",
                    ready,
                    {"503": _answer("Not ready, and why", ready)},
                )
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics",
                    "responses": {
                        "200": {
                            "description": "Prometheus' text format",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                            "headers": _ID_HEADER,
                        }
                    },
                }
            },
        },
        "components": {"schemas": components},
    }


_ID_HEADER: Schema = {
    "x-request-id": {
        "description": "The request's id: the caller's own `x-request-id`, or a new one",
        "schema": {"type": "string"},
    }
}
_RETRY_HEADER: Schema = {
    "retry-after": {"description": "Seconds after which to try again", "schema": {"type": "integer"}},
}


def _answer(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}, "headers": _ID_HEADER}


def _get(name: str, summary: str, schema: Schema, others: Schema | None = None) -> Schema:
    return {"operationId": name, "summary": summary, "responses": {"200": _answer(summary, schema)} | (others or {})}
