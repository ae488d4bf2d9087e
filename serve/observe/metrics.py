"""`Metrics`: Prometheus metrics of requests, stages, models and devices. Dashboards use their names, so keep them."""

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

#: Buckets in seconds, from half a millisecond (one short text, a small model) to a minute (a long list on a busy server).
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Buckets in seconds for short stages. It takes tens of microseconds to tokenize a short text.
FINE_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)
#: Buckets of token and text counts.
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class _Summed(Collector):
    """A metric whose value is the sum of the values of several owners."""

    def __init__(self, family: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, text: str) -> None:
        self._family, self._name, self._text = family, name, text
        self._values: dict[object, Callable[[], float]] = {}
        self._removed = 0.0

    def add(self, owner: object, value: Callable[[], float]) -> None:
        """Add an owner and the function that returns its value."""
        self._values[owner] = value

    def remove(self, owner: object) -> None:
        """Remove an owner. The counts of a removed owner stay in the sum."""
        value = self._values.pop(owner, None)
        if value is not None and self._family is CounterMetricFamily:
            self._removed += value()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the metric with its present value."""
        yield self._family(self._name, self._text, value=self.total())

    def total(self) -> float:
        """Return the sum of all values."""
        return self._removed + sum(value() for value in [*self._values.values()])


#: Labels' values and the value of each sample of a gauge.
Rows = Callable[[], Iterable[tuple[Sequence[str], float]]]


class _Described(Collector):
    """A gauge with a value for each row of labels that an owner describes at a scrape."""

    def __init__(self, name: str, text: str, labels: Sequence[str], rows: Rows) -> None:
        self._name, self._text, self._labels, self._rows = name, text, labels, rows

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the metric for an exposition."""
        metric = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for row, value in self._rows():
            metric.add_metric(row, value)
        yield metric


class _ByDevice(Collector):
    """A metric with the label `device`. Several owners can have values of one device; the metric is their sum or mean."""

    def __init__(self, metric: DeviceMetric) -> None:
        self._kind, self._text = metric.kind, metric.text
        self._name = metric.name.removesuffix("_total")
        self._values: dict[str, dict[object, Callable[[], float]]] = {}
        self._removed: dict[str, float] = {}

    def add(self, owner: object, device: str, value: Callable[[], float]) -> None:
        """Add an owner and the function that returns its value."""
        self._values.setdefault(device, {})[owner] = value

    def remove(self, owner: object) -> None:
        """Remove an owner. The counts of a removed owner stay in the sum."""
        for device, values in self._values.items():
            value = values.pop(owner, None)
            if value is not None and self._kind == "total":
                self._removed[device] = self._removed.get(device, 0.0) + value()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the metric with its present value."""
        family = CounterMetricFamily if self._kind == "total" else GaugeMetricFamily
        metric = family(self._name, self._text, labels=["device"])
        for device, values in [*self._values.items()]:
            present = [value() for value in [*values.values()]]
            total = self._removed.get(device, 0.0) + sum(present)
            if present or self._kind == "total":
                metric.add_metric([device], total / len(present) if self._kind == "share" else total)
        yield metric


class Metrics:
    """Metrics of one server. They have a separate registry, so that a process can run several servers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        #: Returns the pages of the server's other processes, whose counts join this page; None without any.
        self.pages: Callable[[], list[bytes]] | None = None
        self._requests = Counter(
            "fletcher_requests",
            "Answered requests",
            ["door", "route", "status"],
            registry=registry,
        )
        self._errors = Counter("fletcher_errors", "Failed requests by error type", ["type"], registry=registry)
        self._refused = Counter(
            "fletcher_admission_refused", "Requests that the engine rejected", ["reason"], registry=registry
        )
        self._duration = Histogram(
            "fletcher_request_duration_seconds",
            "Time from the arrival of a request to its answer",
            ["door", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.admitted = Counter("fletcher_admission_admitted", "Requests that the engine admitted", registry=registry)
        self.cancelled = Counter(
            "fletcher_requests_cancelled",
            "Requests whose client disconnected or cancelled before the answer",
            registry=registry,
        )
        self.joined = Counter(
            "fletcher_requests_joined",
            "Requests that shared the computation of an identical open request",
            registry=registry,
        )
        self.retried = Counter("fletcher_batches_retried", "Batches run on the spare device", registry=registry)
        self.padding = Counter(
            "fletcher_padding_tokens", "Padding in the rectangles of the batches, in tokens", registry=registry
        )
        self.batch_budget = Counter(
            "fletcher_batch_budget_tokens",
            "Tokens that fit into the computed batches: the token budget of each, added up",
            registry=registry,
        )
        self.output = Histogram(
            "fletcher_output_duration_seconds",
            "Time to make the answer of one request from the output of the model",
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.vectors = Counter("fletcher_vectors_processed", "Computed vectors", registry=registry)
        self.tokens = Counter("fletcher_tokens_processed", "Computed tokens", registry=registry)
        self.dropped = Counter("fletcher_tokens_dropped", "Tokens that truncation cut", registry=registry)
        self.tokenization = Histogram(
            "fletcher_tokenization_duration_seconds",
            "Time to tokenize one request",
            buckets=FINE_SECONDS,
            registry=registry,
        )
        self.queued = Histogram(
            "fletcher_queue_duration_seconds",
            "Time from the admission of a request to its first batch",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "fletcher_batch_duration_seconds", "Time to compute one batch", buckets=SECONDS, registry=registry
        )
        self.batch_tokens = Histogram("fletcher_batch_tokens", "Tokens in a batch", buckets=COUNTS, registry=registry)
        self.batch_texts = Histogram("fletcher_batch_texts", "Texts in a batch", buckets=COUNTS, registry=registry)
        self._summed: dict[str, _Summed] = {}
        self._devices: dict[str, _ByDevice] = {}
        self._add(
            GaugeMetricFamily,
            "fletcher_tokenization_throughput",
            "Tokens per second of tokenizing time, since the start",
            self._tokenization_throughput,
        )
        # prometheus_client takes a lock for each lookup by labels, so this keeps the counters of each route and status.
        self._of_request: dict[tuple[str, str, int | str], tuple[Counter, Histogram]] = {}

    def counted(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a counter whose value is read at each scrape."""
        self._add(CounterMetricFamily, name, text, value)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        self._add(GaugeMetricFamily, name, text, value)

    def described(self, name: str, text: str, labels: Sequence[str], rows: Rows) -> None:
        """Add a gauge with labels. The labels' values and the value of each row are read at each scrape."""
        self.registry.register(_Described(name, text, labels, rows))

    def by_device(self, metric: DeviceMetric) -> None:
        """Add a metric of a device; its value is read at each scrape."""
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
        if name not in self._summed:
            self._summed[name] = _Summed(family, name, text)
            self.registry.register(self._summed[name])
        self._summed[name].add(self, value)

    def labeled(self, name: str, text: str, labels: Sequence[str]) -> Callable[..., Counter]:
        """Add a counter with labels. Return a function from the labels' values to the counter."""
        return functools.cache(Counter(name, text, labels, registry=self.registry).labels)

    def histogram(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Callable[..., Histogram]:
        """Add a histogram with labels. Return a function from the labels' values to the histogram."""
        return functools.cache(Histogram(name, text, labels, buckets=buckets, registry=self.registry).labels)

    def of_one(self) -> Metrics:
        """Return the same metrics for one of several engines. Values that the engine adds by `gauge` are added to the sum."""
        return copy.copy(self)

    def leave(self) -> None:
        """Remove the values of this engine. Its counts stay in the sums."""
        for metric in self._summed.values():
            metric.remove(self)
        for measured in self._devices.values():
            measured.remove(self)

    def count_request(self, record: RequestRecord) -> None:
        """Count a finished request and its error. A client cannot add routes, so the number of label values is bounded."""
        key = (record.door, record.route, record.status)
        metrics = self._of_request.get(key)
        if metrics is None:
            door, route, status = key
            metrics = self._requests.labels(door, route, str(status)), self._duration.labels(door, route)
            self._of_request[key] = metrics
        count, duration = metrics
        count.inc()
        duration.observe(record.stages.total)
        # An error after the status 200 was sent ended only the stream.
        if record.error is not None and record.status != 200:
            self._errors.labels(record.error).inc()

    def refused(self, reason: str) -> None:
        """Count a request that the engine rejected.

        Args:
            reason: `overloaded`, `stopping`, `deadline` or `failing`.
        """
        self._refused.labels(reason).inc()

    def _tokenization_throughput(self) -> float:
        tokens, seconds = (self._summed.get(f"fletcher_tokenizer_{unit}") for unit in ("tokens", "seconds"))
        if tokens is None or seconds is None:
            return 0.0
        return tokens.total() / max(seconds.total(), 1e-9)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of other processes included. It may wait for them."""
        page = generate_latest(self.registry)
        return page if self.pages is None else add_pages(page, self.pages())
