"""`compare`: the work of a server between two scrapes, as rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from .histogram import Histogram, histograms
from .scrape import Scrape

__all__ = ["Batches", "DeviceRow", "Frame", "ModelRow", "Queue", "RouteRow", "StageRow", "compare"]

#: Stages of a request in their order, with the histogram of each.
STAGES = (
    ("tokenize", "fletcher_tokenization_duration_seconds"),
    ("queue", "fletcher_queue_duration_seconds"),
    ("compute", "fletcher_batch_duration_seconds"),
    ("output", "fletcher_output_duration_seconds"),
)


class RouteRow(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one route.

    Attributes:
        door: `http` or `flight`.
        route: path of the route, or the method of Flight.
        per_second: answered requests per second.
        failed: requests per second that did not succeed, or whose client left.
        p50, p99: seconds from arrival to answer that half and 99 % of the requests took at most; None without requests.
    """

    door: str
    route: str
    per_second: float
    failed: float
    p50: float | None
    p99: float | None


class StageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of requests; `compute` counts batches.

    Attributes:
        stage: `tokenize`, `queue`, `compute` or `output`.
        per_second: times per second.
        mean, p50, p99: seconds of one; None without any.
        busy: seconds in this stage per second; for `queue` the mean number of requests that wait.
    """

    stage: str
    per_second: float
    mean: float | None
    p50: float | None
    p99: float | None
    busy: float


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    """Batches that were computed.

    Attributes:
        per_second: batches per second.
        texts, tokens: mean texts and tokens of a batch; None without batches.
        texts_per_second, tokens_per_second: computed vectors and tokens.
        padding: share of padding in the rectangles of the batches; None without batches.
        cut_per_second: tokens that truncation cut.
        cache_hits: share of texts whose vectors were in the cache; None if none was looked up.
    """

    per_second: float
    texts: float | None
    tokens: float | None
    texts_per_second: float
    tokens_per_second: float
    padding: float | None
    cut_per_second: float
    cache_hits: float | None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """Work that waits now, and what was refused.

    Attributes:
        tokens: tokens that wait.
        open_requests: requests that are admitted and not answered.
        parked: parts of streams that wait for room.
        connections: open HTTP connections.
        fronts: connected front processes; 0 if the server is one process.
        refused: refused requests per second by reason, without those of 0.
        errors: errors per second by type, without those of 0.
    """

    tokens: float
    open_requests: float
    parked: float
    connections: float
    fronts: float
    refused: dict[str, float]
    errors: dict[str, float]


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model.

    Attributes:
        model, version, variant, provider, canary: as the server describes it.
        per_second: requests per second.
    """

    model: str
    version: str
    variant: str
    provider: str
    canary: str
    per_second: float


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU.

    Attributes:
        device: name of the GPU.
        in_service: whether it computes.
        busy: share of the time with at least one running batch.
        batches_per_second, tokens_per_second: batches and tokens per second.
        memory: bytes that sessions hold; None if they are not known.
        failures: failed batches since the start.
    """

    device: str
    in_service: bool
    busy: float
    batches_per_second: float
    tokens_per_second: float
    memory: float | None
    failures: float


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """The work of a server between two scrapes.

    Attributes:
        seconds: time between them.
        routes: routes with requests between them, the most frequent first.
        stages: the stages in the order of a request.
        batches, queue: batches and waiting work.
        models: the loaded models.
        devices: the GPUs; none if processors compute.
    """

    seconds: float
    routes: tuple[RouteRow, ...]
    stages: tuple[StageRow, ...]
    batches: Batches
    queue: Queue
    models: tuple[ModelRow, ...]
    devices: tuple[DeviceRow, ...]


def compare(before: Scrape, now: Scrape) -> Frame:
    """Return what happened between two scrapes of one server.

    Counts begin again when the server starts again. A count that is smaller than before is then the count since that start,
    as in Prometheus.

    Args:
        before: the first scrape.
        now: a later one.
    """
    seconds = max(now.time - before.time, 1e-9)

    def rate(name: str) -> float:
        return _increase(before.total(name), now.total(name)) / seconds

    return Frame(
        seconds=seconds,
        routes=_routes(before, now, seconds),
        stages=tuple(_stage(stage, name, before, now, seconds) for stage, name in STAGES),
        batches=_batches(before, now, rate),
        queue=_queue(before, now, seconds),
        models=_models(before, now, seconds),
        devices=_devices(before, now, seconds),
    )


def _increase(before: float, now: float) -> float:
    return now - before if now >= before else now


def _routes(before: Scrape, now: Scrape, seconds: float) -> tuple[RouteRow, ...]:
    earlier = before.of("fletcher_requests_total")
    counts: dict[tuple[str, str], list[float]] = {}
    for labels, value in now.of("fletcher_requests_total").items():
        names = dict(labels)
        increase = _increase(earlier.get(labels, 0.0), value)
        count = counts.setdefault((names["door"], names["route"]), [0.0, 0.0])
        count[0] += increase
        count[1] += 0.0 if names["status"] == "ok" or names["status"].startswith(("2", "3")) else increase
    durations = histograms("fletcher_request_duration_seconds", before, now)
    rows = []
    for (door, route), (count_all, failed) in counts.items():
        if count_all:
            spent = durations.get((("door", door), ("route", route)), Histogram())
            rows.append(
                RouteRow(
                    door=door,
                    route=route,
                    per_second=count_all / seconds,
                    failed=failed / seconds,
                    p50=spent.quantile(0.5),
                    p99=spent.quantile(0.99),
                )
            )
    return tuple(sorted(rows, key=lambda row: (-row.per_second, row.door, row.route)))


def _stage(stage: str, name: str, before: Scrape, now: Scrape, seconds: float) -> StageRow:
    spent = histograms(name, before, now).get((), Histogram())
    return StageRow(
        stage=stage,
        per_second=spent.count / seconds,
        mean=spent.mean,
        p50=spent.quantile(0.5),
        p99=spent.quantile(0.99),
        busy=spent.sum / seconds,
    )


def _batches(before: Scrape, now: Scrape, rate: Callable[[str], float]) -> Batches:
    texts = histograms("fletcher_batch_texts", before, now).get((), Histogram())
    tokens = histograms("fletcher_batch_tokens", before, now).get((), Histogram())
    padding, computed = rate("fletcher_padding_tokens_total"), rate("fletcher_tokens_processed_total")
    hits, misses = rate("fletcher_vector_cache_hits_total"), rate("fletcher_vector_cache_misses_total")
    return Batches(
        per_second=rate("fletcher_batch_tokens_count"),
        texts=texts.mean,
        tokens=tokens.mean,
        texts_per_second=rate("fletcher_vectors_processed_total"),
        tokens_per_second=computed,
        padding=padding / (padding + computed) if computed else None,
        cut_per_second=rate("fletcher_tokens_dropped_total"),
        cache_hits=hits / (hits + misses) if hits + misses else None,
    )


def _queue(before: Scrape, now: Scrape, seconds: float) -> Queue:
    return Queue(
        tokens=now.total("fletcher_queue_tokens"),
        open_requests=now.total("fletcher_open_requests"),
        parked=now.total("fletcher_parked_requests"),
        connections=now.total("fletcher_http_connections"),
        fronts=now.total("fletcher_fronts"),
        refused=_rates("fletcher_admission_refused_total", "reason", before, now, seconds),
        errors=_rates("fletcher_errors_total", "type", before, now, seconds),
    )


def _rates(name: str, label: str, before: Scrape, now: Scrape, seconds: float) -> dict[str, float]:
    earlier = dict(before.by_label(name, label))
    rates = {
        text: _increase(earlier.get(text, 0.0), value) / seconds for text, value in sorted(now.by_label(name, label))
    }
    return {text: rate for text, rate in rates.items() if rate}


def _models(before: Scrape, now: Scrape, seconds: float) -> tuple[ModelRow, ...]:
    name = "fletcher_model_requests_total"
    rows = []
    for labels in sorted(now.of("fletcher_model_info")):
        described = dict(labels)
        key = tuple((label, described[label]) for label in ("model", "version"))
        increase = _increase(before.of(name).get(key, 0.0), now.of(name).get(key, 0.0))
        rows.append(ModelRow(per_second=increase / seconds, **described))
    return tuple(rows)


def _devices(before: Scrape, now: Scrape, seconds: float) -> tuple[DeviceRow, ...]:
    def now_of(name: str, device: str) -> float:
        return dict(now.by_label(name, "device")).get(device, 0.0)

    def rate(name: str, device: str) -> float:
        return _increase(dict(before.by_label(name, "device")).get(device, 0.0), now_of(name, device)) / seconds

    return tuple(
        DeviceRow(
            device=device,
            in_service=bool(in_service),
            busy=min(rate("fletcher_gpu_busy_seconds_total", device), 1.0),
            batches_per_second=rate("fletcher_gpu_batch_count_total", device),
            tokens_per_second=rate("fletcher_gpu_tokens_total", device),
            memory=None if math.isnan(memory := now_of("fletcher_vram_allocated_bytes", device)) else memory,
            failures=now_of("fletcher_gpu_failures_total", device),
        )
        for device, in_service in sorted(now.by_label("fletcher_gpu_in_service", "device"))
    )
