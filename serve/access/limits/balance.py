"""`Balance`: state of a client's limits after a charge, and the two forms of headers that tell it to clients."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from .plan import DAY_SECONDS, SECOND, Plan

__all__ = ["DAY", "FULL", "USED", "Balance", "headers_of"]

#: Places in a client's row: times at which its buckets are full, in nanoseconds; the day; amounts of the day.
FULL: Final = 1
DAY: Final = 4
USED: Final = 5


class Balance(msgspec.Struct, frozen=True):
    """Result of a charge.

    Attributes:
        refused: name of the limit that refuses the charge; empty if it was charged.
        retry: seconds after which the charge would succeed.
        plan: limits of the client.
        row: numbers of the client's row; empty if they were not read.
        now: time of the charge in nanoseconds.
        seconds: time of the charge in seconds since 1970; 0 if the plan has no limit a day.
    """

    refused: str
    retry: float
    plan: Plan
    row: tuple[int, ...]
    now: int
    seconds: float

    @property
    def left(self) -> list[tuple[int, float]]:
        """The remaining amount of each limit, and the seconds until all of it is back, in the order of the plan's names."""
        row, now = self.row, self.now
        found = []
        for index, cost, capacity in self.plan.rates:
            lag = row[FULL + index] - now
            if lag < 0:
                lag = 0
            left = int((capacity - lag) / cost + 1e-6) if lag < capacity else 0
            found.append((left, lag / SECOND))
        if self.plan.days:
            today, passed = divmod(self.seconds, DAY_SECONDS)
            for index, most in self.plan.days:
                used = row[USED + index] if row[DAY] == today else 0
                found.append((max(most - used, 0), DAY_SECONDS - passed))
        return found


def headers_of(balance: Balance) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), and
    `x-ratelimit-*` as OpenAI's API has them, for requests and tokens.

    Args:
        balance: state of the limits.
    """
    plan = balance.plan
    if not balance.row or not plan.names:
        return []
    left = balance.left
    headers = [*plan.fixed]
    for place, remaining, reset in plan.shown:
        amount, seconds = left[place]
        headers.append((remaining, b"%d" % amount))
        headers.append((reset, b"%dms" % math.ceil(seconds * 1000) if seconds < 1 else _duration(seconds)))
    numbers: list[int] = []
    for amount, seconds in left:
        numbers += (amount, math.ceil(seconds))
    headers.append((b"ratelimit", plan.state % tuple(numbers)))
    return headers


def _duration(seconds: float) -> bytes:
    """Return a duration of a second or more in Go's form, which OpenAI uses: `1.5s`, `6m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text).encode()
