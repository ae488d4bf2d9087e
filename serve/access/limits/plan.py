"""`Plan`: limits of a client in the form in which each charge reads them. It is made once for each key."""

from __future__ import annotations

from dataclasses import dataclass

from .quota import Quota

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Limits of a client. The numbers of quantities are places in `QUANTITIES`.

    Attributes:
        quota: the limits.
        rates: of each rate the quantity, the nanoseconds that one of it takes to come back, and those of the whole burst.
        days: of each limit a day the quantity and the amount.
        in_flight: open requests that the client may have; None for no limit.
    """

    quota: Quota
    rates: tuple[tuple[int, float, float], ...]
    days: tuple[tuple[int, int], ...]
    in_flight: int | None

    @classmethod
    def of(cls, quota: Quota) -> Plan:
        """Return the plan of limits."""
        rates, days = [], []
        for index, rate in enumerate(quota.rates):
            if rate.second is not None:
                rates.append((index, 1e9 / rate.second, rate.capacity * 1e9 / rate.second))
            if rate.day is not None:
                days.append((index, rate.day))
        return cls(quota, tuple(rates), tuple(days), quota.in_flight)
