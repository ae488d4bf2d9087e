"""Differences of a graph's points from their reference over all texts, and the results made from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compare import Difference, compare_values
from .points import GraphPoint, Kind, layer_of, title_of
from .probe import Values
from .results import PointResult

__all__ = ["Tally"]


@dataclass(frozen=True, slots=True)
class _Sum:
    """Differences of a point over the texts that were compared so far; see `PointResult`."""

    max_abs: float
    relative: float
    cosine: float
    shape: tuple[int, ...]
    worst: str

    @classmethod
    def of(cls, value: NDArray[np.float32], difference: Difference, where: str) -> _Sum:
        return cls(difference.max_abs, difference.relative, difference.cosine, value.shape, where)

    def with_(self, other: _Sum) -> _Sum:
        worse = other if other.relative > self.relative else self
        return _Sum(
            max(self.max_abs, other.max_abs),
            worse.relative,
            min(self.cosine, other.cosine),
            self.shape,
            worse.worst,
        )


class Tally:
    """Collector of the differences of a graph's points, batch by batch."""

    def __init__(self, points: Sequence[GraphPoint], hidden: Collection[str] = ()) -> None:
        """Start without any difference.

        Args:
            points: points of the graph, in the order of computation.
            hidden: keys of points that the graph computes inside an operator.
        """
        self._hidden = hidden
        self._points = {point.key: point for point in points}
        self._sums: dict[str, _Sum] = {}
        self._expected: dict[str, None] = {}

    def add(self, values: Values, expected: Values, lengths: Sequence[int]) -> None:
        """Compare one batch.

        Args:
            values: values of the graph.
            expected: values of the reference, in the order of computation.
            lengths: tokens of each text.
        """
        self._expected.update((key, None) for key in expected if key not in self._hidden)
        for key in self._points.keys() & expected.keys():
            rows_of = self._points[key].rows_of
            pairs = zip(map(rows_of, values[key]), map(rows_of, expected[key]), strict=True)
            for row, (ours, theirs) in enumerate(pairs):
                where = f"worst in text {row + 1} of a batch of {len(lengths)}, {lengths[row]} tokens long"
                new = _Sum.of(ours, compare_values(ours, theirs), where)
                self._sums[key] = self._sums[key].with_(new) if key in self._sums else new

    def results(self, tolerance: Callable[[str], float]) -> list[PointResult]:
        """Return one result for each point, in the graph's order.

        A point that the graph lacks comes after the last earlier point of the reference that the graph has.

        Args:
            tolerance: returns the tolerance of a point's relative error, by its key.
        """
        order, previous = [*self._points], -1
        for key in self._expected:
            if key not in self._points:
                order.insert(previous + 1, key)
            previous = order.index(key)
        return [self._result(key, tolerance(key)) for key in order]

    def _result(self, key: str, tolerance: float) -> PointResult:
        point, total = self._points.get(key), self._sums.get(key)
        if point is None:
            note = "the graph does not compute it"
            return PointResult(
                section="values",
                point=title_of(key),
                key=key,
                node="none",
                layer=layer_of(key),
                verdict="missing",
                note=note,
            )
        if total is None:
            note = "the reference does not compute it"
            return PointResult(
                section="values",
                point=title_of(point),
                key=key,
                node=point.node,
                layer=layer_of(key),
                verdict="missing",
                note=note,
            )
        return PointResult(
            section="values",
            point=title_of(point),
            key=key,
            node=point.node,
            layer=layer_of(key),
            shape=_free(point, total.shape),
            max_abs=total.max_abs,
            relative=total.relative,
            cosine=total.cosine,
            tolerance=tolerance,
            # Written so that NaN fails.
            verdict="passed" if total.relative <= tolerance else "failed",
            note=total.worst if total.relative > 0 else "",
        )


def _free(point: GraphPoint, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """Return the shape of the batch from a text's shape, with names for sizes that depend on the batch."""
    if point.kind is Kind.SCORES:
        sides = ("longest" for _ in shape[1:]) if point.pooled is None else (1, *("longest" for _ in shape[2:]))
        return ("texts", shape[0], *sides)
    if point.kind is Kind.TEXTS or point.pooled is not None:
        return ("texts", *shape)
    return ("tokens", *shape[1:])
