"""OpenAPI 3.1 document, derived from the routes and from the structs that they decode and encode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

import msgspec

from fletcher import __version__

from ..request_headers import OnTruncate
from .call import Limits
from .coding.bodies import CODINGS
from .errors import ErrorShape
from .route import Doc, Route

__all__ = ["openapi_document"]

Schema = dict[str, Any]

#: Error statuses of all routes that read a body, and of all routes that submit requests to an engine.
BODY_ERRORS = (400, 408, 413, 415)
ENGINE_ERRORS = (412, 429, 500, 503, 504)


def openapi_document(routes: Sequence[Route], limits: Limits, *, keys: bool, root_path: str = "") -> Schema:
    """Return the document, ready to encode as JSON.

    Args:
        routes: all routes; those without a `Doc` are left out.
        limits: limits of a request.
        keys: whether the server requires API keys.
        root_path: prefix of the paths under which clients reach the server.
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
        if request is not None:
            _widen(request, doc.foreign, components)
        answers = [next(left) for _ in _answers(doc)]
        answer = None if not answers else answers[0] if len(answers) == 1 else {"anyOf": answers}
        methods = paths.setdefault(route.path, {})
        methods[route.method.lower()] = _operation(route, doc, request, answer, next(left), limits, keys=keys)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Fletcher",
            "version": __version__,
            "description": "Text embeddings. The server checks at its start that they match the published model.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
        }
    return document


def _widen(request: Schema, foreign: Mapping[str, Mapping[str, Any]], components: dict[str, Schema]) -> None:
    """Add to the schema of a request what `json_bodies.decode` also accepts: foreign fields, and null for optional fields.

    Args:
        request: schema of the request; a reference to a component.
        foreign: schemas of the foreign fields.
        components: all components; those of the request are changed.
    """
    names = _references(request)
    for name in names:
        properties: dict[str, Schema] = components[name]["properties"]
        for field, schema in foreign.items():
            properties[field] = {"anyOf": [properties[field], dict(schema)]} if field in properties else dict(schema)
    done: set[str] = set()
    while left := names - done:
        for name in left:
            done.add(name)
            component = components[name]
            names = names | _references(component)
            properties = component.get("properties", {})
            for field in properties.keys() - set(component.get("required", ())):
                properties[field] = _or_null(properties[field])
            if component.get("additionalProperties") is False:
                component["additionalProperties"] = {"type": "null"}


def _references(schema: Any) -> set[str]:
    """Return the names of the components that a schema refers to, directly or in a part of it."""
    if isinstance(schema, list):
        return set().union(*map(_references, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(_references, schema.values()))


def _or_null(schema: Schema) -> Schema:
    """Return a schema that also accepts null."""
    null = {"type": "null"}
    if null in schema.get("anyOf", []) or schema == {}:
        return schema
    outer: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {"anyOf": [*inner["anyOf"], null] if inner.keys() == {"anyOf"} else [inner, null]} | outer


def _answers(doc: Doc) -> Sequence[Any]:
    """Return the types of the answer of a route."""
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
    if contents and route.access == "key":
        headers |= _SPACE_HEADER | _TRUNCATED_HEADER
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
            "description": f"At most {limits.body_bytes} bytes, plain or compressed (`Content-Encoding`: "
            f"{', '.join(CODINGS)}).",
        }
    if parameters := [*_parameters(route, doc)]:
        operation["parameters"] = parameters
    if keys and route.access != "open":
        operation["security"] = [{"key": []}, {"api-key": []}]
    return operation


def _parameters(route: Route, doc: Doc) -> Iterable[Schema]:
    """Yield the parameters in the path, query and headers of a route."""
    if "{" in route.path:
        name = route.path.partition("{")[2].partition("}")[0]
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
            "name": "If-Space",
            "in": "header",
            "description": "Identifiers of spaces, as `/v1/space` gives them; vectors of another space are refused with 412",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        }
        yield {
            "name": "X-Priority",
            "in": "header",
            "description": "Priority class of the request. Default: normal; bulk for streams and large requests",
            "schema": {"enum": ["interactive", "normal", "bulk"]},
        }
        yield {
            "name": "X-On-Truncate",
            "in": "header",
            "description": "Policy for texts that are longer than the model takes. Default: that of the server.",
            "schema": {"enum": [*get_args(OnTruncate)]},
        }


def _plain(field: Schema) -> Schema:
    """Return the schema of a field without null, which a query cannot hold."""
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) == 1:
        return dict(kinds[0])
    return {key: value for key, value in field.items() if not (key == "default" and value is None)}


def _refusal(status: int, error: Schema, answer: Schema | None, shape: ErrorShape) -> Schema:
    """Return the response of an error."""
    # `/ready` returns the reason for 503 in its usual answer.
    schema = answer if status == 503 and answer is not None and "Ready" in answer.get("$ref", "") else error
    headers = _ID_HEADER | (_RETRY_HEADER if status in (429, 503) else {})
    return {
        "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
        "content": {"application/json": {"schema": schema}},
        "headers": headers,
    }


_MEANINGS = {
    400: "The request is invalid; the message names the field",
    401: "The request needs a valid API key",
    403: "The caller does not have permission",
    404: "The server does not have this model or path",
    409: "The change contradicts a model that is served",
    412: "The vectors would be of another space than `If-Space` accepts",
    408: "The body did not arrive in time",
    413: "The body is too large, or the request has too many texts or texts that are too long",
    415: "The media type or the coding of the body is not supported",
    422: "A field of the request is invalid",
    424: "The model failed; the log of the server has the details",
    429: "Too many requests are waiting",
    500: "The model failed; the log of the server has the details",
    503: "The server is not ready, or it is stopping",
    504: "The timeout of the request passed",
}

_ID_HEADER: Schema = {
    "x-request-id": {
        "description": "Id of the request: the `x-request-id` of the caller, or a new one",
        "schema": {"type": "string"},
    }
}
_TRUNCATED_HEADER: Schema = {
    "x-truncated": {
        "description": "Number of texts that truncation cut, if there are any",
        "schema": {"type": "integer"},
    },
}
_SPACE_HEADER: Schema = {
    "x-space": {
        "description": "Identifier of the space of the vectors, if the answer has vectors or scores",
        "schema": {"type": "string"},
    }
}
_RETRY_HEADER: Schema = {
    "retry-after": {"description": "Seconds after which to try again", "schema": {"type": "integer"}},
}
