"""OpenAPI document, checked against the running server with schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: Checks that run. The server may reject a body that fits the schema, because the model decides which dimensions and token
#: ids exist; so that check is left out.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]

#: Models of the requests in this test.
NAMED = {"model": "fake-model"}


@schemathesis.serializer("application/cbor", "application/vnd.apache.arrow.stream")
def as_it_is(context: Any, value: Any) -> bytes:
    """Return a body as bytes. Other generated values become bytes that are neither CBOR nor Arrow of texts."""
    return value if isinstance(value, bytes) else repr(value).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", admin="on", models_root="/")) as server:
        yield str(server.addresses.http)


def run(url: str, examples: int) -> int:
    """Send generated requests to every operation. Return the number of sent requests."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
    schema.config.update(base_url=url)
    sent = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        if operation.path.startswith("/admin/"):
            continue  # it would unload the only model; separate tests check it
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            sent += _ask(operation, mode, examples)
    return sent


def _ask(operation: Any, mode: Any, examples: int) -> int:
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
        derandomize=True,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal sent
        if mode is schemathesis.GenerationMode.POSITIVE and isinstance(case.body, dict) and sent % 2:
            case.body = case.body | NAMED
        if mode is schemathesis.GenerationMode.POSITIVE and case.headers and "X-Request-Timeout" in case.headers:
            case.headers["X-Request-Timeout"] = "30"  # a shorter timeout could pass, with 504
        sent += 1
        response = case.call()
        # schemathesis does not accept 413 as a rejection.
        case.validate_response(response, checks=CHECKS[:-1] if response.status_code == 413 else CHECKS)

    try:
        ask()
    except Exception as error:
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
            raise
    return sent


def test_the_document_matches_the_server(url: str) -> None:
    assert run(url, 8) > 150


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_document_matches_the_server_with_more_examples(url: str) -> None:
    assert run(url, 400) > 5000
