"""Headers of requests that HTTP and Flight share: the request's id, its priority and its timeout."""

from __future__ import annotations

import math
import re
from typing import Final, Literal, get_args

from .engine.terms import PRIORITIES, Priority
from .errors import FieldError

__all__ = [
    "PEER",
    "PLAIN_ID",
    "PRIORITY",
    "REQUEST_ID",
    "OnTruncate",
    "cap_priority",
    "read_on_truncate",
    "read_priority",
    "read_timeout",
]

#: Header of a request's id. OpenAI's clients read it. A caller may send an id, to find the request in the log.
REQUEST_ID = "x-request-id"

#: Header of a request's priority class. An answer has it if the server chose `bulk` because the request names no class.
PRIORITY: Final = "x-priority"

#: Header with the address of the client, from a front process to the engine process.
PEER: Final = "x-fletcher-peer"

#: Pattern of an accepted caller's id. Every other request gets an id from the server.
PLAIN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


#: Policy for texts that are longer than the model takes.
OnTruncate = Literal["allow", "report", "refuse"]


def read_on_truncate(value: bytes) -> OnTruncate:
    """Return the policy that `X-On-Truncate` names.

    Raises:
        FieldError: the policy does not exist.
    """
    name = value.decode("latin-1")
    for policy in get_args(OnTruncate):
        if policy == name:
            return policy  # type: ignore[no-any-return]
    raise FieldError(f"X-On-Truncate is {name!r}: use one of {', '.join(get_args(OnTruncate))}", "X-On-Truncate")


def read_priority(value: bytes) -> Priority:
    """Return the priority class that `X-Priority` names.

    Raises:
        FieldError: the class does not exist.
    """
    name = value.decode("latin-1")
    for priority in PRIORITIES:
        if priority == name:
            return priority
    raise FieldError(f"X-Priority is {name!r}: use one of {', '.join(PRIORITIES)}", "X-Priority")


def cap_priority(asked: Priority | None, highest: Priority | None) -> Priority | None:
    """Return the class that a request may have; None if the size of the request decides.

    Args:
        asked: class that the request names, or None.
        highest: highest class of its client, or None for every class.
    """
    if highest is None or PRIORITIES.index(asked or "normal") >= PRIORITIES.index(highest):
        return asked
    return highest


def read_timeout(value: bytes) -> float:
    """Return the seconds of `X-Request-Timeout`.

    Raises:
        FieldError: the value is not a number of seconds above 0.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e9:
        shown = value.decode("latin-1")
        raise FieldError(f"X-Request-Timeout is {shown!r}: it must be a number of seconds above 0", "X-Request-Timeout")
    return seconds
