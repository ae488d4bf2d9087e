"""Prometheus metrics of every stage. Metric names of Fletcher 0.x keep their meaning."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fletcher.runtime.session.counters import DeviceMetric

from .pages import add_pages
from .record import RequestRecord

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Seconds: half a millisecond (one short text, a small model) to a minute (a long list on a busy server).
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Tokenizing a short text takes tens of microseconds.
FINE_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class _Elsewhere(Collector):
    """A metric whose value is the sum of values that several owners keep."""

    def __init__(self, family: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, text: str) -> None:
        self._family, self._name, self._text = family, name, text
        self._values: dict[object, Callable[[], float]] = {}
        self._gone = 0.0

    def add(self, owner: object, value: Callable[[], float]) -> None:
        """Add an owner and its value."""
        self._values[owner] = value

    def remove(self, owner: object) -> None:
        """Remove an owner; what it has counted stays in the sum."""
        value = self._values.pop(owner, None)
        if value is not None and self._family is CounterMetricFamily:
            self._gone += value()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the metric for an exposition."""
        yield self._family(self._name, self._text, value=self.total())

    def total(self) -> float:
        """Return the present sum."""
        return self._gone + sum(value() for value in [*self._values.values()])


class _ByDevice(Collector):
    """A metric with the label `device`. Several owners may keep values of one device; the metric shows their sum."""

    def __init__(self, metric: DeviceMetric) -> None:
        self._kind, self._text = metric.kind, metric.text
        self._name = metric.name.removesuffix("_total")
        self._values: dict[str, dict[object, Callable[[], float]]] = {}
        self._gone: dict[str, float] = {}

    def add(self, owner: object, device: str, value: Callable[[], float]) -> None:
        """Add an owner and its value."""
        self._values.setdefault(device, {})[owner] = value

    def remove(self, owner: object) -> None:
        """Remove an owner; what it has counted stays in the sum."""
        for device, values in self._values.items():
            value = values.pop(owner, None)
            if value is not None and self._kind == "total":
                self._gone[device] = self._gone.get(device, 0.0) + value()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the metric for an exposition."""
        family = CounterMetricFamily if self._kind == "total" else GaugeMetricFamily
        metric = family(self._name, self._text, labels=["device"])
        for device, values in [*self._values.items()]:
            present = [value() for value in [*values.values()]]
            total = self._gone.get(device, 0.0) + sum(present)
            if present or self._kind == "total":
                metric.add_metric([device], total / len(present) if self._kind == "share" else total)
        yield metric


class Metrics:
    """Metrics of one server, in a registry of their own, so that a process can hold several servers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        #: Returns the pages of the server's other processes, whose counts join this page; None without any.
        self.pages: Callable[[], list[bytes]] | None = None
        self._requests = Counter(
            "fletcher_requests",
            "Requests answered, by door, route and status",
            ["door", "route", "status"],
            registry=registry,
        )
        self._errors = Counter("fletcher_errors", "Requests that failed, by error type", ["type"], registry=registry)
        self._refused = Counter(
            "fletcher_admission_refused", "Requests refused at the door", ["reason"], registry=registry
        )
        self._duration = Histogram(
            "fletcher_request_duration_seconds",
            "From a request's arrival to its answer",
            ["door", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.admitted = Counter("fletcher_admission_admitted", "Requests that the engine admitted", registry=registry)
        self.cancelled = Counter("fletcher_requests_cancelled", "Requests whose client left first", registry=registry)
        self.joined = Counter(
            "fletcher_requests_joined", "Requests answered with an identical one that was under way", registry=registry
        )
        self.retried = Counter("fletcher_batches_retried", "Batches run on the spare device", registry=registry)
        self.padding = Counter(
            "fletcher_padding_tokens", "Places of the batches' rectangles that held no token", registry=registry
        )
        self.output = Histogram(
            "fletcher_output_duration_seconds",
            "Making one request's vectors of what the model computed",
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.vectors = Counter("fletcher_vectors_processed", "Vectors answered", registry=registry)
        self.tokens = Counter("fletcher_tokens_processed", "Tokens that the model computed", registry=registry)
        self.dropped = Counter("fletcher_tokens_dropped", "Tokens cut by truncation", registry=registry)
        self.tokenization = Histogram(
            "fletcher_tokenization_duration_seconds",
            "Tokenizing one request",
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.queued = Histogram(
            "fletcher_queue_duration_seconds", "From admission to a batch", buckets=SECONDS, registry=registry
        )
        self.batch_seconds = Histogram(
            "fletcher_batch_duration_seconds", "Computing one batch", buckets=SECONDS, registry=registry
        )
        self.batch_tokens = Histogram("fletcher_batch_tokens", "Tokens of a batch", buckets=COUNTS, registry=registry)
        self.batch_texts = Histogram("fletcher_batch_texts", "Texts of a batch", buckets=COUNTS, registry=registry)
        # A lookup by labels takes a lock and a dict of tuples, so the few counters that there are stay here.
        self._elsewhere: dict[str, _Elsewhere] = {}
        self._devices: dict[str, _ByDevice] = {}
        self._add(
            GaugeMetricFamily,
            "fletcher_tokenization_throughput",
            "Tokens a second while the tokenizer worked, since the start",
            self._tokenization_throughput,
        )
        self._of_request: dict[tuple[str, str, int | str], tuple[Counter, Histogram]] = {}

    def counted(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a counter whose owner keeps the value; it is read at each scrape."""
        self._add(CounterMetricFamily, name, text, value)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        self._add(GaugeMetricFamily, name, text, value)

    def by_device(self, metric: DeviceMetric) -> None:
        """Add a metric that a device keeps; it is read at each scrape."""
        if metric.name not in self._devices:
            self._devices[metric.name] = _ByDevice(metric)
            self.registry.register(self._devices[metric.name])
        self._devices[metric.name].add(self, metric.device, metric.value)

    def _add(
        self,
        family: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        value: Callable[[], float],
    ) -> None:
        if name not in self._elsewhere:
            self._elsewhere[name] = _Elsewhere(family, name, text)
            self.registry.register(self._elsewhere[name])
        self._elsewhere[name].add(self, value)

    def labeled(self, name: str, text: str, labels: Sequence[str]) -> Callable[..., Counter]:
        """Add a counter with labels. Return a function from the labels' values to the counter."""
        return functools.cache(Counter(name, text, labels, registry=self.registry).labels)

    def histogram(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Callable[..., Histogram]:
        """Add a histogram with labels. Return a function from the labels' values to the histogram."""
        return functools.cache(Histogram(name, text, labels, buckets=buckets, registry=self.registry).labels)

    def of_one(self) -> Metrics:
        """Return the same metrics for one of several engines: values that the engine adds by `gauge` join the sum."""
        return copy.copy(self)

    def leave(self) -> None:
        """Remove what this engine added; what it has counted stays in the counts."""
        for metric in self._elsewhere.values():
            metric.remove(self)
        for measured in self._devices.values():
            measured.remove(self)

    def count_request(self, record: RequestRecord) -> None:
        """Count a finished request, and the error that it was answered with. Routes are few: none is a client's own words."""
        key = (record.door, record.route, record.status)
        metrics = self._of_request.get(key)
        if metrics is None:
            door, route, status = key
            metrics = self._requests.labels(door, route, str(status)), self._duration.labels(door, route)
            self._of_request[key] = metrics
        count, duration = metrics
        count.inc()
        duration.observe(record.stages.total)
        if record.error is not None and record.status != 200:  # a stream that breaks off was answered
            self._errors.labels(record.error).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was not admitted."""
        self._refused.labels(reason).inc()

    def _tokenization_throughput(self) -> float:
        tokens, seconds = (self._elsewhere.get(f"fletcher_tokenizer_{what}") for what in ("tokens", "seconds"))
        if tokens is None or seconds is None:
            return 0.0
        return tokens.total() / max(seconds.total(), 1e-9)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of other processes included. It may wait for them."""
        page = generate_latest(self.registry)
        return page if self.pages is None else add_pages(page, self.pages())
