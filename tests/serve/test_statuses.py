"""Table of statuses: it covers the whole error tree."""

from __future__ import annotations

import pytest

import fletcher.runtime.errors
import fletcher.serve.errors
from fletcher.runtime.errors import FletcherError, InputError, OverloadedError, ProviderError, StoppingError
from fletcher.serve.errors import RateLimitError
from fletcher.serve.statuses import STATUSES, public_message, retry_after, status_of


def tree(root: type[FletcherError]) -> set[type[FletcherError]]:
    return {root}.union(*(tree(child) for child in root.__subclasses__()))


def test_every_error_has_a_line_in_the_table() -> None:
    public = {
        getattr(module, name) for module in (fletcher.runtime.errors, fletcher.serve.errors) for name in module.__all__
    }
    assert public == set(STATUSES)
    fletcher_errors = {
        error for error in tree(FletcherError) if error.__module__.startswith(("fletcher.runtime", "fletcher.serve"))
    }
    assert fletcher_errors <= set(STATUSES)


@pytest.mark.parametrize("error", STATUSES)
def test_only_errors_of_input_and_overload_are_client_errors(error: type[FletcherError]) -> None:
    status = STATUSES[error]
    blamed = issubclass(error, InputError) or error is OverloadedError
    caused = issubclass(error, InputError) and error is not RateLimitError  # Flight has no code for limits
    assert (400 <= status.http < 500) is blamed
    codes = ("INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED")
    assert (status.flight in codes) is caused


def test_an_unknown_error_has_the_status_of_its_base_class() -> None:
    class ElsewhereError(StoppingError): ...

    assert status_of(ElsewhereError("x")) == STATUSES[StoppingError]


def test_failures_of_the_server_do_not_name_files() -> None:
    assert "/secret" not in public_message(ProviderError("cannot read /secret/path"))
    assert public_message(InputError("row 3")) == "row 3"


def test_only_temporary_errors_have_the_time_of_a_retry() -> None:
    assert retry_after(OverloadedError("full", 7.0)) == 7.0
    assert retry_after(StoppingError("stopping")) is not None
    assert retry_after(InputError("no")) is None
