"""What a route is: where it answers, who may ask, how it fails, and what the OpenAPI document says of it."""

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
    """A route in the OpenAPI document.

    Attributes:
        name: operation id.
        summary: one line.
        request: struct of the body in JSON, if it has one.
        answer: type of the answer in JSON, a tuple of several, or None.
        text: more about it.
        requests: other media types of the body, and their schema.
        answers: other media types of the answer, and their schema.
        query: struct whose fields are parameters of the query.
        errors: statuses besides those that every route of its kind has.
        status: of success.
        example: a body.
        headers: what an answer carries besides the request's id: name and description.
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
        method: `GET` or another.
        path: a whole path, or one whose last part is a `{name}`.
        handler: answers.
        doc: what the OpenAPI document says; None leaves it out.
        shape: its errors.
        access: who may ask.
    """

    method: str
    path: str
    handler: Handler
    doc: Doc | None = None
    shape: ErrorShape = OPENAI
    access: Access = "key"
