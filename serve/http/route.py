"""`Route`: a method and its paths, with handler, access, error shape and documentation; `RouteTable` finds routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from ..access.levels import Access
from .call import Handler
from .errors import OPENAI, ErrorShape

__all__ = ["Doc", "Methods", "Route", "RouteTable", "named_part"]


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
        foreign: schemas of the fields of other servers that the body may have, by name (`apis/foreign_fields.py`).
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
    foreign: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Attributes:
        method: HTTP method; a `GET` route also answers `HEAD`.
        path: a fixed path, or a path with one part `{name}`. It is the name of the route in metrics and logs.
        handler: function that answers a request.
        doc: documentation in the OpenAPI document; None leaves the route out.
        shape: shape of its errors.
        access: level of access that the caller needs.
        also: other paths of the route.
    """

    method: str
    path: str
    handler: Handler
    doc: Doc | None = None
    shape: ErrorShape = OPENAI
    access: Access = "key"
    also: tuple[str, ...] = ()


#: The routes of a path, by method.
Methods = Mapping[str, Route]

_NONE: Final[Methods] = MappingProxyType({})


def named_part(path: str, pattern: str) -> str:
    """Return the part of a path that stands for the `{name}` of a pattern.

    Args:
        path: path of a request, which matches the pattern.
        pattern: path of a route, for example `/v1/models/{id}`.
    """
    prefix, suffix = _ends(pattern)
    return path.removesuffix("/").removeprefix(prefix).removesuffix(suffix)


class RouteTable:
    """Routes by path. Each path may end with a slash.

    Attributes:
        fixed: name of the route and its methods, by fixed path.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        """Make the table of some routes."""
        self.fixed: dict[str, tuple[str, dict[str, Route]]] = {}
        self._patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            for path in (route.path, *route.also):
                if "{" in path:
                    self._patterns.setdefault(path, {})[route.method] = route
                    continue
                for spelling in _spellings(path):
                    self.fixed.setdefault(spelling, (route.path, {}))[1][route.method] = route

    def find(self, path: str) -> tuple[str, Methods]:
        """Return the name of a route, such as `/v1/models/{id}`, and its methods; `unknown` and none if it does not exist."""
        if (exact := self.fixed.get(path)) is not None:
            return exact
        path = path.removesuffix("/")
        for pattern, methods in self._patterns.items():
            prefix, suffix = _ends(pattern)
            if path.startswith(prefix) and path.endswith(suffix) and len(path) > len(prefix) + len(suffix):
                return next(iter(methods.values())).path, methods
        return "unknown", _NONE


def _ends(pattern: str) -> tuple[str, str]:
    prefix, _, rest = pattern.partition("{")
    return prefix, rest.partition("}")[2]


def _spellings(path: str) -> Iterator[str]:
    yield path
    if not path.endswith("/"):
        yield path + "/"
