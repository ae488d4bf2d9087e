"""`Route`: a path and a method with their handler, access, error shape and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..access.levels import Access
from .call import Handler
from .errors import OPENAI, ErrorShape

__all__ = ["Doc", "Route"]


@dataclass(frozen=True, slots=True)
class Doc:
    """Documentation of a route in the OpenAPI document.

    Attributes:
        name: operation id.
        summary: one line about the route.
        request: struct of the body in JSON, or None.
        answer: type of the answer in JSON, or a tuple of types, or None.
        text: details beyond the summary.
        requests: schemas of the body by other media types.
        answers: schemas of the answer by other media types.
        query: struct whose fields are parameters of the query.
        errors: error statuses in addition to those that all routes with a body or an engine have.
        status: status of success.
        example: an example of a body.
        headers: descriptions of the headers of the answer by name, without the id of the request.
    """

    name: str
    summary: str
    request: Any = None
    answer: Any = None
    text: str = ""
    requests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    query: Any = None
    errors: tuple[int, ...] = ()
    status: int = 200
    example: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Attributes:
        method: HTTP method; a `GET` route also answers `HEAD`.
        path: a fixed path, or a path whose last part is a `{name}`.
        handler: function that answers a request.
        doc: documentation in the OpenAPI document; None leaves the route out.
        shape: shape of its errors.
        access: level of access that the caller needs.
    """

    method: str
    path: str
    handler: Handler
    doc: Doc | None = None
    shape: ErrorShape = OPENAI
    access: Access = "key"
