"""`Quota`: limits of one client, as data. The keys' file and the option `--limit` have them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fletcher.runtime.errors import InputError

__all__ = ["QUANTITIES", "Quota", "Rate", "read_quota"]

#: Quantities that have a rate.
QUANTITIES: Final = ("requests", "tokens", "bytes")

#: Form of a limit of the command line: `requests=10/s`, `tokens=5000/s:20000`, `bytes=1000000/day`, `in_flight=8`.
FORM: Final = re.compile(r"(requests|tokens|bytes)=(\d+(?:\.\d+)?)/(s|day)(?::(\d+))?|in_flight=(\d+)")

Positive = Annotated[float, Meta(gt=0, le=1e15)]
Count = Annotated[int, Meta(ge=1, le=1 << 53)]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of one quantity.

    Attributes:
        second: amount a second in the long run; None for no limit.
        burst: amount that may come at once after a pause. Default: the amount of one second, at least 1.
        day: amount a day, from midnight to midnight UTC; None for no limit.
    """

    second: Positive | None = None
    burst: Count | None = None
    day: Count | None = None

    @property
    def capacity(self) -> float:
        """The amount that may come at once; 0 without a rate."""
        return 0.0 if self.second is None else float(self.burst or max(self.second, 1.0))


NO_RATE: Final = Rate()


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of one client.

    Attributes:
        requests: HTTP requests and Flight calls.
        tokens: tokens that the model computes.
        bytes: bytes of bodies.
        in_flight: requests that are open at the same time; None for no limit.
    """

    requests: Rate = NO_RATE
    tokens: Rate = NO_RATE
    bytes: Rate = NO_RATE
    in_flight: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None

    @property
    def rates(self) -> tuple[Rate, Rate, Rate]:
        """The limits in the order of `QUANTITIES`."""
        return self.requests, self.tokens, self.bytes

    @property
    def empty(self) -> bool:
        """True if there is no limit."""
        return self == NO_QUOTA


NO_QUOTA: Final = Quota()


def read_quota(texts: Iterable[str]) -> Quota:
    """Return the limits that the command line names.

    Args:
        texts: limits such as `requests=10/s`, `tokens=5000/s:20000` (with a burst), `requests=100000/day`, `in_flight=8`.

    Raises:
        InputError: one has another form, or is out of its bounds.
    """
    fields: dict[str, dict[str, float | int] | int] = {}
    for text in texts:
        match = FORM.fullmatch(text)
        if match is None:
            raise InputError(
                f"the limit {text!r} cannot be read: use requests=10/s, tokens=5000/s:20000 (with a burst), "
                "bytes=1000000/day or in_flight=8"
            )
        quantity, amount, period, burst, in_flight = match.groups()
        if in_flight is not None:
            fields["in_flight"] = int(in_flight)
            continue
        rate = fields.setdefault(quantity, {})
        assert isinstance(rate, dict)
        if period == "day":
            if burst is not None or "." in amount:
                raise InputError(f"the limit {text!r} cannot be read: a limit a day is a whole number without a burst")
            rate["day"] = int(amount)
        else:
            rate["second"] = float(amount)
            if burst is not None:
                rate["burst"] = int(burst)
    try:
        return msgspec.convert(fields, Quota)
    except msgspec.ValidationError as error:
        raise InputError(f"the limits {', '.join(texts)} cannot be used: {error}") from None
