"""The OpenAPI 3.1 document, derived from the routes and from the structs that they decode and encode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from fletcher import __version__

from .call import Limits
from .errors import ErrorShape
from .routes import Doc, Route

__all__ = ["openapi_document"]

Schema = dict[str, Any]

#: Statuses of errors of every route that reads a body, and of every route that asks an engine.
BODY_ERRORS = (400, 408, 413, 415)
ENGINE_ERRORS = (429, 500, 503, 504)


def openapi_document(routes: Sequence[Route], limits: Limits, *, keys: bool) -> Schema:
    """Return the document, ready to encode as JSON.

    Args:
        routes: all routes; those without a `Doc` are left out.
        limits: limits of a request.
        keys: whether the server has API keys.
    """
    shown = [(route, route.doc) for route in routes if route.doc is not None]
    types: list[Any] = []
    for route, doc in shown:
        types += [] if doc.request is None else [doc.request]
        types += [*_answers(doc), route.shape.struct]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    left = iter(schemas)
    paths: dict[str, Schema] = {}
    for route, doc in shown:
        request = None if doc.request is None else next(left)
        answers = [next(left) for _ in _answers(doc)]
        answer = None if not answers else answers[0] if len(answers) == 1 else {"anyOf": answers}
        methods = paths.setdefault(route.path, {})
        methods[route.method.lower()] = _operation(route, doc, request, answer, next(left), limits, keys=keys)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Fletcher",
            "version": __version__,
            "description": "Text embeddings that are the published model's own: checked against it when the server starts.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _answers(doc: Doc) -> Sequence[Any]:
    """Return the types of a route's answer."""
    return doc.answer if isinstance(doc.answer, tuple) else [] if doc.answer is None else [doc.answer]


def _operation(
    route: Route, doc: Doc, request: Schema | None, answer: Schema | None, error: Schema, limits: Limits, *, keys: bool
) -> Schema:
    """Return the operation of a route."""
    bodies = {"application/json": {"schema": request} | ({"example": doc.example} if doc.example else {})}
    contents = {} if request is None else bodies
    contents |= {kind: {"schema": dict(schema)} for kind, schema in doc.requests.items()}
    answers = {} if answer is None else {"application/json": {"schema": answer}}
    answers |= {kind: {"schema": dict(schema)} for kind, schema in doc.answers.items()}
    errors = set(doc.errors)
    if contents:
        errors |= {*BODY_ERRORS, *(ENGINE_ERRORS if route.access == "key" else (500, 503))}
    if keys and route.access != "open":
        errors |= {401, 403} if route.access == "admin" else {401}
    headers = _ID_HEADER | {
        name: {"description": text, "schema": {"type": "string"}} for name, text in doc.headers.items()
    }
    success = {"content": answers} if answers else {}
    operation: Schema = {
        "operationId": doc.name,
        "summary": doc.summary,
        "responses": {str(doc.status): {"description": doc.summary, "headers": headers} | success}
        | {str(status): _refusal(status, error, answer, route.shape) for status in sorted(errors)},
    }
    if doc.text:
        operation["description"] = doc.text
    if contents:
        operation["requestBody"] = {
            "required": True,
            "content": contents,
            "description": f"At most {limits.body_bytes} bytes, plain or as gzip (`Content-Encoding`).",
        }
    if parameters := [*_parameters(route, doc)]:
        operation["parameters"] = parameters
    if keys and route.access != "open":
        operation["security"] = [{"key": []}]
    return operation


def _parameters(route: Route, doc: Doc) -> Iterable[Schema]:
    """Yield the parameters in a route's path, query and headers."""
    if "{" in route.path:
        name = route.path.partition("{")[2].rstrip("}")
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if doc.query is not None:
        schema, components = msgspec.json.schema_components([doc.query])
        for struct in components.values():
            for name, field in struct["properties"].items():
                yield {"name": name, "in": "query", "schema": _plain(field)}
        del schema
    if route.access == "key" and (doc.request is not None or doc.requests):
        yield {
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "Seconds that the client waits for the answer",
            "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e9},
        }
        yield {
            "name": "X-Priority",
            "in": "header",
            "description": "Which queue the request waits in",
            "schema": {"enum": ["interactive", "normal", "bulk"]},
        }


def _plain(field: Schema) -> Schema:
    """Return a field's schema without the null that a query cannot hold."""
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) == 1:
        return dict(kinds[0])
    return {key: value for key, value in field.items() if not (key == "default" and value is None)}


def _refusal(status: int, error: Schema, answer: Schema | None, shape: ErrorShape) -> Schema:
    """Return the response of an error."""
    # `/ready` gives the reason for 503 in its own answer.
    schema = answer if status == 503 and answer is not None and "Ready" in answer.get("$ref", "") else error
    headers = _ID_HEADER | (_RETRY_HEADER if status in (429, 503) else {})
    return {
        "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
        "content": {"application/json": {"schema": schema}},
        "headers": headers,
    }


_MEANINGS = {
    400: "The request cannot be used as it is; the message names the field",
    401: "An API key is needed",
    403: "This caller may not do this",
    404: "The model is not served here",
    408: "The body did not come in time",
    413: "The body is too large, or the request has too many or too long texts",
    415: "The body's type or coding is not supported",
    422: "A field of the request cannot be used",
    424: "The model failed; the server's log has the details",
    429: "Too many requests wait already",
    500: "The model failed; the server's log has the details",
    503: "The server is not ready, or is stopping",
    504: "The request's own time passed",
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
