"""`Plan`: limits of a client in the form in which each charge reads them. It is made once for each key."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

from .quota import QUANTITIES, Quota

__all__ = ["DAY_SECONDS", "SECOND", "Plan"]

#: Seconds of a day, and nanoseconds of a second.
DAY_SECONDS: Final = 86_400
SECOND: Final = 1_000_000_000

#: Unit of a quantity in `RateLimit-Policy`. The draft registers `requests` and `content-bytes`, and no unit for tokens.
UNITS: Final = {"requests": "requests", "tokens": "tokens", "bytes": "content-bytes"}

#: Quantities in OpenAI's headers.
OPENAI: Final = QUANTITIES[:2]


@dataclass(frozen=True, slots=True)
class Plan:
    """Limits of a client. The numbers of quantities are places in `QUANTITIES`.

    Attributes:
        rates: of each rate the quantity, the nanoseconds that one of it takes to come back, and those of the whole burst.
        days: of each limit a day the quantity and the amount.
        in_flight: open requests that the client may have; None for no limit.
        counted: whether each quantity has a limit.
        names: names of the rates, then of the limits a day: `requests`, `tokens-day`, ….
        fixed: headers that all answers have alike: `RateLimit-Policy` and OpenAI's limits.
        shown: limits in OpenAI's headers: place in `names`, and the headers for what is left and for the time until all is
            back. A limit a day is there if its quantity has no rate.
        stored: for a store of limits, cost and capacity of each quantity in microseconds, and the amounts a day; -1 means
            no limit.
        state: value of the header `RateLimit`, with places for what is left of each limit and for the seconds until all is
            back.
    """

    rates: tuple[tuple[int, float, float], ...]
    days: tuple[tuple[int, int], ...]
    in_flight: int | None
    counted: tuple[bool, ...]
    names: tuple[str, ...]
    fixed: tuple[tuple[bytes, bytes], ...]
    shown: tuple[tuple[int, bytes, bytes], ...]
    stored: tuple[float, ...]
    state: bytes

    @classmethod
    @functools.lru_cache(maxsize=1024)  # signed tokens with the same scope have the same limits
    def of(cls, quota: Quota) -> Plan:
        """Return the plan of limits."""
        rates: list[tuple[int, float, float]] = []
        days: list[tuple[int, int]] = []
        lines: list[tuple[str, int, float]] = []  # name, amount, and seconds in which an empty limit fills up
        for index, rate in enumerate(quota.rates):
            if rate.second is not None:
                rates.append((index, SECOND / rate.second, rate.capacity * SECOND / rate.second))
                lines.append((QUANTITIES[index], int(rate.capacity + 1e-6), rate.capacity / rate.second))
        for index, rate in enumerate(quota.rates):
            if rate.day is not None:
                days.append((index, rate.day))
                lines.append((f"{QUANTITIES[index]}-day", rate.day, DAY_SECONDS))
        names = tuple(name for name, _, _ in lines)
        policy = ", ".join(
            f'"{name}";q={amount};qu="{UNITS[name.removesuffix("-day")]}";w={max(math.ceil(window), 1)}'
            for name, amount, window in lines
        )
        fixed = [(b"ratelimit-policy", policy.encode())] if lines else []
        shown = []
        for quantity in OPENAI:
            place = next((names.index(name) for name in (quantity, f"{quantity}-day") if name in names), None)
            if place is not None:
                fixed.append((f"x-ratelimit-limit-{quantity}".encode(), b"%d" % lines[place][1]))
                remaining, reset = f"x-ratelimit-remaining-{quantity}", f"x-ratelimit-reset-{quantity}"
                shown.append((place, remaining.encode(), reset.encode()))
        return cls(
            tuple(rates),
            tuple(days),
            quota.in_flight,
            tuple(rate.second is not None or rate.day is not None for rate in quota.rates),
            names,
            tuple(fixed),
            tuple(shown),
            _stored(rates, days),
            ", ".join(f'"{name}";r=%d;t=%d' for name in names).encode(),
        )


def _stored(rates: list[tuple[int, float, float]], days: list[tuple[int, int]]) -> tuple[float, ...]:
    costs, capacities, amounts = [-1.0] * 3, [-1.0] * 3, [-1.0] * 3
    for index, cost, capacity in rates:
        costs[index], capacities[index] = cost / 1000, capacity / 1000
    for index, most in days:
        amounts[index] = most
    return (*costs, *capacities, *amounts)
