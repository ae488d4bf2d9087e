"""Metrics: their names, the sums over several engines, and the documentation of each of them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fletcher.serve.engine.engine import Engine

from ..fake_encoder import FakeEncoder, request_for

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "observability.md"


def values(exposition: bytes) -> dict[str, float]:
    """Return all samples by name and labels."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def test_stable_names_of_metrics() -> None:
    with Engine(FakeEncoder()) as engine:
        engine.submit(request_for(["ab", "cd"])).result(10)
        samples = values(engine.metrics.exposition())
    assert samples["fletcher_vectors_processed_total"] == 2
    assert samples["fletcher_tokenization_duration_seconds_count"] == 1
    assert samples["fletcher_cache_hits_total"] == 3
    assert samples["fletcher_tokenization_throughput"] == 30 / 0.5


def test_the_throughput_of_several_tokenizers_is_their_total() -> None:
    with Engine(FakeEncoder()) as first, Engine(FakeEncoder(), metrics=first.metrics.of_one()) as second:
        assert values(second.metrics.exposition())["fletcher_tokenization_throughput"] == 60 / 1.0


def test_the_fill_of_batches_is_their_tokens_over_their_budgets() -> None:
    with Engine(FakeEncoder(token_budget=64)) as engine:
        for _ in range(3):
            engine.submit(request_for(["ab"])).result(10)  # one after another: three batches of 4 tokens
        samples = values(engine.metrics.exposition())
    assert samples["fletcher_batch_budget_tokens_total"] == 3 * 64
    assert samples["fletcher_tokens_processed_total"] == 3 * 4


def test_the_seconds_of_the_queue_are_its_tokens_over_the_speed() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        assert values(engine.metrics.exposition())["fletcher_queue_seconds"] == 0
        engine.admission.rate.count_batch(64, 0.5)  # 128 tokens per second
        futures = [engine.submit(request_for([text * 10])) for text in "abcdefghijklmnop"]  # 12 tokens each
        samples = values(engine.metrics.exposition())
        encoder.gate.set()
        for future in futures:
            future.result(10)
    assert samples["fletcher_queue_tokens"] >= 96
    assert samples["fletcher_queue_seconds"] == samples["fletcher_queue_tokens"] / 128


def test_every_metric_is_described(http_url: str) -> None:
    httpx.post(f"{http_url}/embed", json={"inputs": "ab"})
    exposed = {
        family.name
        for family in text_string_to_metric_families(httpx.get(f"{http_url}/metrics").text)
        if not family.name.endswith("_created")
    }
    described = {name.removesuffix("_total") for name in re.findall(r"`(fletcher_\w+)", PAGE.read_text())}
    assert exposed <= described, sorted(exposed - described)
