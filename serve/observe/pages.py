"""`add_pages`: one page of metrics for a server of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = ["add_pages", "counts_of"]

#: Types whose values of several processes are added up.
ADDED = frozenset({"counter", "histogram"})

#: Gauges that are the quotient of two counters of the joined page, with the counters' names.
QUOTIENTS = {
    "fletcher_tokenization_throughput": ("fletcher_tokenizer_tokens_total", "fletcher_tokenizer_seconds_total")
}


class _Families(Collector):
    """Metric families that were read from pages."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._families


def add_pages(page: bytes, others: Sequence[bytes]) -> bytes:
    """Return a page with the counts of other pages added to its own.

    Counters and histograms are added up by name and labels. A gauge that the page itself has keeps the page's values; a gauge
    that only others have, such as their open connections, is their sum. A gauge with the label `process` has a value for each
    process.

    Args:
        page: page of the process that answers.
        others: pages of the other processes, in Prometheus' text format.
    """
    own = {family.name: family for family in text_string_to_metric_families(page.decode())}
    families = dict(own)
    totals: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    order: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
    for family in own.values():
        _add(family, totals, order)
    for text in others:
        for family in text_string_to_metric_families(text.decode()):
            absent = family.name not in own and not family.name.endswith("_created")
            if family.type in ADDED or absent or _by_process(family):
                families.setdefault(family.name, family)
                _add(family, totals, order)
    for name, (dividend, divisor) in QUOTIENTS.items():
        if (name, frozenset()) in totals:
            seconds = max(totals.get((divisor, frozenset()), 0.0), 1e-9)
            totals[name, frozenset()] = totals.get((dividend, frozenset()), 0.0) / seconds
    registry = CollectorRegistry()
    merged = []
    for name, family in families.items():
        joined = Metric(name, family.documentation, family.type)
        joined.samples = [sample._replace(value=totals[key]) for key, sample in order[name].items()]
        merged.append(joined)
    registry.register(_Families(merged))
    return generate_latest(registry)


def _by_process(family: Metric) -> bool:
    return any("process" in sample.labels for sample in family.samples)


def counts_of(page: bytes) -> bytes:
    """Return the counters and histograms of a page: what remains of a process that has ended."""
    registry = CollectorRegistry()
    families = text_string_to_metric_families(page.decode())
    registry.register(_Families([family for family in families if family.type in ADDED]))
    return generate_latest(registry)


def _add(
    family: Metric,
    totals: dict[tuple[str, frozenset[tuple[str, str]]], float],
    order: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]],
) -> None:
    """Add the samples of a family to the totals."""
    samples = order.setdefault(family.name, {})
    for sample in family.samples:
        key = sample.name, frozenset(sample.labels.items())
        if key in samples and sample.name.endswith("_created"):
            continue  # the time at which the first process began to count
        totals[key] = totals.get(key, 0.0) + sample.value
        samples.setdefault(key, sample)
