"""`same_speed`, `rivals`: decide from the spread of throughputs which candidates can be distinguished."""

from __future__ import annotations

from collections.abc import Mapping

from ..measure.speed import Speed

__all__ = ["SAME_SPEED", "fastest", "rivals", "same_speed"]

#: Throughputs that differ by less count as equal, whatever the number of rounds: no user notices such a gain.
SAME_SPEED = 0.03


def same_speed(ours: Speed, theirs: Speed) -> bool:
    """Return whether two throughputs count as equal: their ranges overlap, or they differ by less than `SAME_SPEED`."""
    first, second = ours.throughput_ratio, theirs.throughput_ratio
    near = max(first.median, second.median) < min(first.median, second.median) * (1 + SAME_SPEED)
    return near or first.overlaps(second)


def fastest(speeds: Mapping[str, Speed]) -> str:
    """Return the name with the highest median throughput."""
    return max(speeds, key=lambda name: speeds[name].throughput_ratio.median)


def rivals(speeds: Mapping[str, Speed]) -> list[str]:
    """Return the fastest name and those that more rounds may distinguish from it; empty if there are none.

    More rounds are useless where both ranges together are narrower than `SAME_SPEED`.
    """
    if not speeds:
        return []
    leader = fastest(speeds)
    others = [name for name in speeds if name != leader and _undecided(speeds[leader], speeds[name])]
    return [leader, *others] if others else []


def _undecided(ours: Speed, theirs: Speed) -> bool:
    first, second = ours.throughput_ratio, theirs.throughput_ratio
    wide = max(first.high, second.high) >= min(first.low, second.low) * (1 + SAME_SPEED)
    return wide and first.overlaps(second)
