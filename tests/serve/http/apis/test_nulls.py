"""Null means left out, for each optional field of each route. The fields come from the routes' types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from fletcher.serve.http.route import Route
from fletcher.serve.http.routes import http_routes
from fletcher.serve.json_bodies import without_nulls
from fletcher.serve.models.changes import AdminRules
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder

ROUTES = {
    f"{route.method} {route.path}": route
    for route in http_routes(None, AdminRules("on"))
    if route.doc and route.doc.request
}

#: Fields of answers that differ between two equal requests.
VARYING = frozenset({"id", "created", "total_duration"})


@dataclass(frozen=True, slots=True)
class Case:
    """`Case`: a field of a route's body.

    Attributes:
        route: method and path.
        path: names of the objects that hold the field, and of the field.
    """

    route: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.route} {'.'.join(self.path)}"


def body_of(route: Route) -> Any:
    """Return the example of a route with the served model."""
    assert route.doc is not None
    example = msgspec.json.decode(msgspec.json.encode(route.doc.example))
    assert isinstance(example, dict), route.path
    return example | ({"model": "fake-model"} if "model" in example else {})


def optional_fields(kind: Any, value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the optional fields of a struct, and those of the structs in its fields that the value has."""
    described = msgspec.inspect.type_info(kind)
    structs = [
        part for part in getattr(described, "types", (described,)) if isinstance(part, msgspec.inspect.StructType)
    ]
    for struct in structs:
        for field in struct.fields:
            here = (*path, field.encode_name)
            if not field.required:
                yield here
            inner = value.get(field.encode_name)
            if isinstance(inner, dict):
                hint = next(one for one in msgspec.structs.fields(struct.cls) if one.encode_name == field.encode_name)
                yield from optional_fields(hint.type, inner, here)


CASES = [
    Case(name, path)
    for name, route in ROUTES.items()
    if route.doc
    for path in (*optional_fields(route.doc.request, body_of(route)), *((foreign,) for foreign in route.doc.foreign))
]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", admin="on", models_root="/")) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=10) as client,
    ):
        yield client


def ask(http: httpx.Client, name: str, body: Any) -> tuple[int, Any]:
    """Return the status and the answer of a route, without the fields that differ between two equal requests."""
    method, path = name.split()
    path = path.replace("{model}", "fake-model").replace("{name}", "none")
    response = http.request(method, path, json=body)
    answer = response.json()
    if isinstance(answer, dict):
        answer = {key: value for key, value in answer.items() if key not in VARYING}
    return response.status_code, answer


@pytest.fixture(scope="module")
def plain(http: httpx.Client) -> dict[str, tuple[int, Any]]:
    """Return the answers to the examples as they are."""
    return {name: ask(http, name, body_of(route)) for name, route in ROUTES.items()}


def test_there_is_a_case_for_each_route() -> None:
    assert len(CASES) > 150
    assert {case.route for case in CASES} >= ROUTES.keys() - {"PATCH /admin/models/{name}"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_null_is_the_same_as_a_field_that_is_left_out(
    http: httpx.Client, plain: dict[str, tuple[int, Any]], case: Case
) -> None:
    without, with_null = body_of(ROUTES[case.route]), body_of(ROUTES[case.route])
    inner, inner_null = without, with_null
    for name in case.path[:-1]:
        inner, inner_null = inner[name], inner_null[name]
    inner.pop(case.path[-1], None)
    inner_null[case.path[-1]] = None
    expected = plain[case.route] if without == body_of(ROUTES[case.route]) else ask(http, case.route, without)
    assert ask(http, case.route, with_null) == expected


def test_the_examples_of_vectors_are_answered(plain: dict[str, tuple[int, Any]]) -> None:
    """The comparison above is about answers, not only about equal errors."""
    answered = {name.split()[1] for name, (status, _) in plain.items() if status == 200}
    assert answered >= {
        "/v1/embeddings",
        "/openai/deployments/{model}/embeddings",
        "/embed",
        "/similarity",
        "/tokenize",
        "/v1/embed",
        "/v2/embed",
        "/api/embed",
        "/api/embeddings",
    }


@pytest.mark.parametrize("field", ["input", "model"])
def test_null_in_a_required_field_is_refused(http: httpx.Client, field: str) -> None:
    body = {"model": "fake-model", "input": "ab", "encoding_format": None} | {field: None}
    status, answer = ask(http, "POST /v1/embeddings", body)
    assert status == 400
    assert answer["error"]["param"] == field


def test_null_in_an_unknown_field_is_left_out(http: httpx.Client) -> None:
    status, _ = ask(http, "POST /v1/embeddings", {"model": "fake-model", "input": "ab", "color": None})
    assert status == 200


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct inside another one."""

    required: str | None
    optional: int = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """A struct with structs in its fields."""

    items: list[Inner | str] = []
    plain: dict[str, Any] = {}


def test_nested_objects_keep_what_is_not_optional() -> None:
    body = {"items": ["a", {"required": None, "optional": None}], "plain": {"kept": None}}
    assert without_nulls(body, Outer) == {"items": ["a", {"required": None}], "plain": {"kept": None}}
