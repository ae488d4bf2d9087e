"""`Histogram`: the observations of a Prometheus histogram between two scrapes, with quantiles as Prometheus computes them."""

from __future__ import annotations

from dataclasses import dataclass

from .scrape import Labels, Scrape

__all__ = ["Histogram", "histograms"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations in buckets.

    Attributes:
        bounds: upper bound of each bucket, ascending; the last one is infinite.
        counts: observations of at most that bound.
        sum: sum of the observations.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    sum: float = 0.0

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the observations; None without any."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the value that a share of the observations does not exceed, as Prometheus' `histogram_quantile`.

        Observations are taken to lie evenly between the bounds of their bucket. A quantile in the last bucket is its lower
        bound.

        Args:
            share: from 0 to 1.

        Returns:
            The value; None without observations.
        """
        if not self.count:
            return None
        rank = share * self.count
        index = next(index for index, count in enumerate(self.counts) if count >= rank)
        below = self.counts[index - 1] if index else 0.0
        lower = self.bounds[index - 1] if index else 0.0
        if index == len(self.bounds) - 1:
            return lower
        return lower + (self.bounds[index] - lower) * (rank - below) / (self.counts[index] - below)


def histograms(name: str, before: Scrape, now: Scrape) -> dict[Labels, Histogram]:
    """Return the observations between two scrapes by labels.

    If a count is smaller than before, the server has started again, and the observations are those since that start.

    Args:
        name: name of the histogram.
        before, now: the scrapes.
    """
    made = {}
    buckets_before = _buckets(name, before)
    for labels, buckets in _buckets(name, now).items():
        bounds = tuple(sorted(buckets))
        counts = [buckets[bound] for bound in bounds]
        total = now.of(f"{name}_sum").get(labels, 0.0)
        earlier = buckets_before.get(labels, {})
        if all(earlier.get(bound, 0.0) <= buckets[bound] for bound in bounds):
            counts = [buckets[bound] - earlier.get(bound, 0.0) for bound in bounds]
            total -= before.of(f"{name}_sum").get(labels, 0.0)
        made[labels] = Histogram(bounds, tuple(counts), max(total, 0.0))
    return made


def _buckets(name: str, scrape: Scrape) -> dict[Labels, dict[float, float]]:
    """Return the counts of a histogram's buckets by labels and upper bound."""
    buckets: dict[Labels, dict[float, float]] = {}
    for labels, value in scrape.of(f"{name}_bucket").items():
        others = tuple(pair for pair in labels if pair[0] != "le")
        buckets.setdefault(others, {})[float(dict(labels)["le"])] = value
    return buckets
