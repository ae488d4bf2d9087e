"""`add_pages`: one page of metrics for a server of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = ["add_pages"]

#: Types whose values of several processes are added up. A gauge is the first process's alone.
ADDED = frozenset({"counter", "histogram"})


class _Families(Collector):
    """Metric families that were read from pages."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._families


def add_pages(page: bytes, others: Sequence[bytes]) -> bytes:
    """Return a page with the counts of other pages added to its own.

    Counters and histograms are added up by name and labels. Of gauges, the page's own values stay.

    Args:
        page: page of the process that answers.
        others: pages of the other processes, in Prometheus' text format.
    """
    families: dict[str, Metric] = {}
    totals: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    order: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
    for number, text in enumerate([page, *others]):
        for family in text_string_to_metric_families(text.decode()):
            if number and family.type not in ADDED:
                continue
            known = families.setdefault(family.name, family)
            samples = order.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                created = sample.name.endswith("_created")
                if key in samples and created:
                    continue  # the time at which the first process began to count
                totals[key] = totals.get(key, 0.0) + sample.value
                samples.setdefault(key, sample)
            assert known.type == family.type or number
    registry = CollectorRegistry()
    merged = []
    for name, family in families.items():
        joined = Metric(name, family.documentation, family.type)
        joined.samples = [sample._replace(value=totals[key]) for key, sample in order[name].items()]
        merged.append(joined)
    registry.register(_Families(merged))
    return generate_latest(registry)
