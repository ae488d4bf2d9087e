"""`Balance`: state of a client's limits after a charge, and the two forms of headers that tell it to clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .plan import Plan
from .quota import QUANTITIES

__all__ = ["Balance", "Line", "headers_of"]

#: Unit of a quantity in `RateLimit-Policy`. The draft registers `requests` and `content-bytes`, and no unit for tokens.
UNITS: Final = {"requests": "requests", "tokens": "tokens", "bytes": "content-bytes"}


#: Seconds of a day, and nanoseconds of a second.
DAY_SECONDS: Final = 86_400
SECOND: Final = 1_000_000_000

#: Places in a client's row of the times at which its buckets are full, in nanoseconds, and of the amounts of the day.
FULL: Final = 1
USED: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """State of one limit.

    Attributes:
        name: `requests`, `tokens` or `bytes`; with `-day` for a limit a day.
        limit: amount that the client may use at once, or in a day.
        remaining: amount that is left of it.
        reset: seconds until all of it is there again.
        window: seconds in which an empty limit fills up.
    """

    name: str
    limit: int
    remaining: int
    reset: float
    window: float


@dataclass(frozen=True, slots=True)
class Balance:
    """Result of a charge.

    Attributes:
        refused: name of the limit that refuses the charge; empty if it was charged.
        retry: seconds after which the charge would succeed.
        plan: limits of the client.
        row: numbers of the client's row; empty if they were not read.
        now: time of the charge in nanoseconds.
        until_midnight: seconds until the amounts of the day begin again.
    """

    refused: str
    retry: float
    plan: Plan
    row: tuple[int, ...]
    now: int
    until_midnight: float

    @property
    def lines(self) -> list[Line]:
        """The state of each limit, without that of open requests."""
        if not self.row:
            return []
        lines = []
        for index, cost, capacity in self.plan.rates:
            lag = max(self.row[FULL + index] - self.now, 0)
            left = max(math.floor((capacity - lag) / cost + 1e-6), 0)
            lines.append(Line(QUANTITIES[index], int(capacity / cost + 1e-6), left, lag / SECOND, capacity / SECOND))
        for index, most in self.plan.days:
            left = max(most - self.row[USED + index], 0)
            lines.append(Line(f"{QUANTITIES[index]}-day", most, left, self.until_midnight, DAY_SECONDS))
        return lines


def headers_of(lines: Sequence[Line]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), and
    `x-ratelimit-*` as OpenAI's API has them, for requests and tokens.

    Args:
        lines: state of each limit.
    """
    if not lines:
        return []
    policies, states = [], []
    headers: list[tuple[bytes, bytes]] = []
    named: set[str] = set()
    for line in lines:
        quantity = line.name.removesuffix("-day")
        policies.append(f'"{line.name}";q={line.limit};qu="{UNITS[quantity]}";w={max(math.ceil(line.window), 1)}')
        states.append(f'"{line.name}";r={line.remaining};t={math.ceil(line.reset)}')
        if quantity in QUANTITIES[:2] and quantity not in named:  # the rate comes before the limit a day
            named.add(quantity)
            headers += [
                (f"x-ratelimit-limit-{quantity}".encode(), b"%d" % line.limit),
                (f"x-ratelimit-remaining-{quantity}".encode(), b"%d" % line.remaining),
                (f"x-ratelimit-reset-{quantity}".encode(), _duration(line.reset).encode()),
            ]
    headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
    headers.append((b"ratelimit", ", ".join(states).encode()))
    return headers


def _duration(seconds: float) -> str:
    """Return a duration in Go's form, which OpenAI uses: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text
