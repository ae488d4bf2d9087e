"""`compare`: rows of two scrapes of a running server, and quantiles as Prometheus defines them."""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from fletcher.runtime.errors import InputError, ServiceError
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions
from fletcher.serve.top.frame import compare
from fletcher.serve.top.histogram import histograms
from fletcher.serve.top.scrape import Scrape, parse_page, read_page

from .conftest import ask


def test_a_frame_has_the_requests_between_its_scrapes(url: str, read: Callable[[], Scrape]) -> None:
    ask(url)
    before = read()
    assert ask(url) == [200, 200, 200, 404]
    now = read()
    frame = compare(before, now)
    seconds = now.time - before.time
    assert frame.seconds == seconds
    # The first scrape itself is answered after its page was made, so it counts in the second one.
    embed, metrics = frame.routes
    assert (embed.door, embed.route, metrics.route) == ("http", "/v1/embeddings", "/metrics")
    assert embed.per_second == pytest.approx(4 / seconds)
    assert embed.failed == pytest.approx(1 / seconds)
    assert embed.p50 is not None
    assert 0.01 < embed.p50 < embed.p99 < 0.25  # type: ignore[operator]  # of batches of 20 ms
    stages = {stage.stage: stage for stage in frame.stages}
    assert list(stages) == ["tokenize", "queue", "compute", "output"]
    assert stages["compute"].per_second == pytest.approx(3 / seconds)
    assert 0.02 <= stages["compute"].mean < 0.2  # type: ignore[operator]
    assert stages["compute"].busy == pytest.approx(stages["compute"].mean * 3 / seconds)  # type: ignore[operator]
    assert stages["queue"].per_second == pytest.approx(3 / seconds)
    assert frame.batches.per_second == pytest.approx(3 / seconds)
    assert frame.batches.texts == pytest.approx(4 / 3)
    assert frame.batches.tokens == pytest.approx((4 + 6 + 6 + 16) / 3)
    assert frame.batches.texts_per_second == pytest.approx(4 / seconds)
    assert frame.batches.tokens_per_second == pytest.approx(32 / seconds)
    assert frame.batches.cut_per_second == pytest.approx(6 / seconds)
    assert (frame.queue.tokens, frame.queue.open_requests, frame.queue.fronts) == (0, 0, 0)
    assert frame.queue.errors == {"UnknownModelError": pytest.approx(1 / seconds)}
    (model,) = frame.models
    assert (model.model, model.provider, model.variant) == ("fake-model", "by hand", "cpu-fp32")
    assert model.per_second == pytest.approx(3 / seconds)
    assert frame.devices == ()
    assert msgspec.json.decode(msgspec.json.encode(frame), type=type(frame)) == frame


def test_without_requests_nothing_is_divided_by_zero(read: Callable[[], Scrape]) -> None:
    before = read()
    frame = compare(before, before)
    assert frame.routes == ()
    assert {stage.mean for stage in frame.stages} == {None}
    assert frame.batches.texts is None
    assert frame.batches.padding is None


def page_of(*observations: float, name: str = "seconds") -> str:
    registry = CollectorRegistry()
    histogram = Histogram(name, "text", buckets=(1.0, 2.0, 4.0), registry=registry)
    for value in observations:
        histogram.observe(value)
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("observations", "share", "expected"),
    [
        # histogram_quantile of Prometheus: the rank lies evenly between the bounds of its bucket.
        ((0.5, 0.6, 0.7, 0.8), 0.5, 0.5),
        ((0.5, 1.5, 1.6, 3.0), 0.5, 1.5),
        ((0.5, 1.5, 1.6, 3.0), 0.99, 2 + 2 * 0.96),
        ((0.5, 1.5, 1.6, 3.0), 1.0, 4.0),
        ((9.0, 9.0), 0.5, 4.0),  # in the last bucket: its lower bound
    ],
)
def test_quantiles_are_those_of_prometheus(observations: tuple[float, ...], share: float, expected: float) -> None:
    before = parse_page(page_of(), 0.0)
    made = histograms("seconds", before, parse_page(page_of(*observations), 1.0))[()]
    assert made.quantile(share) == pytest.approx(expected)
    assert made.mean == pytest.approx(sum(observations) / len(observations))


def test_counts_of_a_server_that_started_again_are_those_since_its_start() -> None:
    before, now = parse_page(page_of(0.5, 1.5, 3.0), 0.0), parse_page(page_of(1.5), 1.0)
    made = histograms("seconds", before, now)[()]
    assert (made.count, made.sum) == (1, 1.5)
    empty = histograms("seconds", now, now)[()]
    assert (empty.count, empty.mean, empty.quantile(0.5)) == (0, None, None)


def test_devices_are_those_of_the_gpu_metrics() -> None:
    def page(busy: float, batches: float, at: float, memory: float = 2**31) -> Scrape:
        registry = CollectorRegistry()
        for name, value in (
            ("fletcher_gpu_in_service", 1),
            ("fletcher_gpu_busy_seconds_total", busy),
            ("fletcher_gpu_batch_count_total", batches),
            ("fletcher_gpu_tokens_total", 1000 * batches),
            ("fletcher_vram_allocated_bytes", memory),
            ("fletcher_gpu_failures_total", 1),
        ):
            Gauge(name, "text", ["device"], registry=registry).labels("cuda:0").set(value)
        return parse_page(generate_latest(registry).decode(), at)

    (row,) = compare(page(10.0, 5, 100.0), page(11.0, 25, 102.0)).devices
    assert (row.device, row.in_service, row.busy, row.memory, row.failures) == ("cuda:0", True, 0.5, 2**31, 1)
    assert (row.batches_per_second, row.tokens_per_second) == (10, 10_000)
    unknown = compare(page(0, 0, 0.0), page(0, 0, 1.0, float("nan")))
    assert unknown.devices[0].memory is None


def test_every_metric_that_a_frame_reads_is_one_of_the_server(tiny_artifact: Path) -> None:
    root = Path(__file__).parents[3]
    names = set(re.findall(r'"(fletcher_\w+)"', (root / "serve" / "top" / "frame.py").read_text(encoding="utf-8")))
    assert len(names) > 20
    member = (root / "runtime" / "fleet" / "member.py").read_text(encoding="utf-8")
    gpu = {name for name in names if name.startswith(("fletcher_gpu", "fletcher_vram"))}
    assert gpu <= set(re.findall(r'"(fletcher_\w+)"', member))
    spec = ModelSpec(path=str(tiny_artifact), name="fake-model", provider="mlas", workers=1)
    with Server([spec], ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        ask(str(server.addresses.http))
        values = read_page(str(server.addresses.http), None, 5.0).values
    of_fronts_and_overload = {"fletcher_fronts", "fletcher_admission_refused_total"}
    for name in names - gpu - of_fronts_and_overload:
        assert name in values or f"{name}_count" in values, name


def test_what_is_not_a_server_of_fletcher_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="begins with http"):
        read_page("127.0.0.1:8080", None, 1.0)
    with pytest.raises(ServiceError, match="answered 404"):
        read_page(f"{url}/other", None, 1.0)
    with pytest.raises(ServiceError, match="cannot be reached"):
        read_page("http://127.0.0.1:1", None, 1.0)
    with pytest.raises(ServiceError, match="not a page"):
        parse_page("{<html>", 0.0)
    assert read_page(f"{url}/metrics", None, 1.0).total("fletcher_requests_total") >= 0
    page = b"# HELP x y\n# TYPE x gauge\nx 1\n"
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: io.BytesIO(page))
    with pytest.raises(ServiceError, match="no metrics of Fletcher"):
        read_page(url, None, 1.0)


@pytest.mark.slow
def test_a_server_with_fronts_is_one_server(tiny_artifact: Path) -> None:
    import httpx

    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", workers=1, cache=0)
    with Supervisor([spec], ServerOptions(http="127.0.0.1:0", flight="off", fronts=2)) as server:
        url = str(server.addresses.http)
        read = partial(read_page, url, None, 5.0)
        before = read()
        for number in range(6):  # a connection each, so that both fronts answer
            body = {"model": "tiny", "input": [f"text {number}", "another"]}
            assert httpx.post(f"{url}/v1/embeddings", json=body).status_code == 200
        frame = compare(before, now := read())
    seconds = now.time - before.time
    assert frame.routes[0].route == "/v1/embeddings"
    assert frame.routes[0].per_second == pytest.approx(6 / seconds)
    assert frame.batches.texts_per_second == pytest.approx(12 / seconds)
    assert frame.queue.fronts == 2
    assert frame.models[0].model == "tiny"
    assert frame.models[0].per_second == pytest.approx(6 / seconds)
