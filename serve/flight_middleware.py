"""The request's id on Flight: the caller's `x-request-id` header, or a new one, answered in the same header."""

from __future__ import annotations

import re
import secrets
from typing import Any

import pyarrow.flight as fl

__all__ = ["RequestIdFactory", "request_id"]

HEADER = "x-request-id"
_plain_id = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _RequestId(fl.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, value: str) -> None:
        self.value = value

    def sending_headers(self) -> dict[str, str]:
        return {HEADER: self.value}


class RequestIdFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Gives every call its id."""

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _RequestId:
        """Takes the caller's id where it is plain."""
        for value in headers.get(HEADER, []):
            if isinstance(value, str) and _plain_id.fullmatch(value):
                return _RequestId(value)
        return _RequestId("req-" + secrets.token_hex(8))


def request_id(context: Any) -> str:
    """The id of a call."""
    return str(context.get_middleware("request-id").value)
