"""`Balance`: state of a client's limits after a charge, and the two forms of headers that tell it to clients."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import msgspec

from .plan import Plan
from .quota import QUANTITIES

__all__ = ["Balance", "Line", "headers_of"]

#: Unit of a quantity in `RateLimit-Policy`. The draft registers `requests` and `content-bytes`, and no unit for tokens.
UNITS: Final = {"requests": "requests", "tokens": "tokens", "bytes": "content-bytes"}


#: Quantity of a limit in OpenAI's headers, and the names of the three. A limit a day has them if there is no rate.
OPENAI: Final = {
    f"{quantity}{period}": (
        quantity,
        f"x-ratelimit-limit-{quantity}".encode(),
        f"x-ratelimit-remaining-{quantity}".encode(),
        f"x-ratelimit-reset-{quantity}".encode(),
    )
    for quantity in QUANTITIES[:2]
    for period in ("", "-day")
}

#: Seconds of a day, and nanoseconds of a second.
DAY_SECONDS: Final = 86_400
SECOND: Final = 1_000_000_000

#: Places in a client's row of the times at which its buckets are full, in nanoseconds, and of the amounts of the day.
FULL: Final = 1
USED: Final = 5


class Line(msgspec.Struct, frozen=True, gc=False):
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


class Balance(msgspec.Struct, frozen=True):
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


def headers_of(balance: Balance) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), and
    `x-ratelimit-*` as OpenAI's API has them, for requests and tokens.

    Args:
        balance: state of the limits.
    """
    lines = balance.lines
    if not lines:
        return []
    headers: list[tuple[bytes, bytes]] = []
    states = []
    named: set[str] = set()
    for line in lines:
        name, left = line.name, line.remaining
        states.append(f'"{name}";r={left};t={math.ceil(line.reset)}')
        names = OPENAI.get(name)
        if names is not None and names[0] not in named:  # the rate comes before the limit a day
            named.add(names[0])
            headers += (
                (names[1], b"%d" % line.limit),
                (names[2], b"%d" % left),
                (names[3], _duration(line.reset).encode()),
            )
    headers.append((b"ratelimit-policy", _policy(balance.plan)))
    headers.append((b"ratelimit", ", ".join(states).encode()))
    return headers


@lru_cache(1024)
def _policy(plan: Plan) -> bytes:
    """Return `RateLimit-Policy`, which is the same for all requests of a client."""
    lines = Balance("", 0.0, plan, (0,) * 8, 0, 0.0).lines
    return ", ".join(
        f'"{line.name}";q={line.limit};qu="{UNITS[line.name.removesuffix("-day")]}";w={max(math.ceil(line.window), 1)}'
        for line in lines
    ).encode()


def _duration(seconds: float) -> str:
    """Return a duration in Go's form, which OpenAI uses: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text
