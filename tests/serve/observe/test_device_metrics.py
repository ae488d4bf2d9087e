"""Metrics of devices: they appear under their names, with one value for all models that share a device."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fletcher.runtime.session.counters import DeviceMetric
from fletcher.serve.engine.engine import Engine
from fletcher.serve.observe.metrics import Metrics

from ..fake_encoder import FakeEncoder


def shown(metrics: Metrics, name: str) -> dict[str, float]:
    """Return the values by device."""
    return {
        sample.labels["device"]: sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name == name
    }


def counted(device: str, texts: float, bytes_: float, weight: float) -> list[DeviceMetric]:
    return [
        DeviceMetric("fletcher_gpu_sequences_total", "Texts", device, lambda: texts, "total"),
        DeviceMetric("fletcher_vram_allocated_bytes", "Bytes", device, lambda: bytes_, "amount"),
        DeviceMetric("fletcher_gpu_weight", "Weight", device, lambda: weight, "share"),
    ]


def test_an_engine_shows_the_counts_of_each_device() -> None:
    encoder = FakeEncoder()
    encoder.devices = [*counted("cuda:0", 10, 100, 0.25), *counted("cuda:1", 30, 300, 0.75)]
    metrics = Metrics()
    with Engine(encoder, metrics=metrics):
        assert shown(metrics, "fletcher_gpu_sequences_total") == {"cuda:0": 10, "cuda:1": 30}
        assert shown(metrics, "fletcher_vram_allocated_bytes") == {"cuda:0": 100, "cuda:1": 300}
        assert shown(metrics, "fletcher_gpu_weight") == {"cuda:0": 0.25, "cuda:1": 0.75}
        types = {family.name: family.type for family in text_string_to_metric_families(metrics.exposition().decode())}
        assert types["fletcher_gpu_sequences"] == "counter"
        assert types["fletcher_gpu_weight"] == "gauge"


def test_metrics_of_models_on_one_device_are_combined_and_counts_are_kept_after_a_model() -> None:
    metrics = Metrics()
    first, second = metrics.of_one(), metrics.of_one()
    for metric in counted("cuda:0", 10, 100, 0.2):
        first.by_device(metric)
    for metric in [*counted("cuda:0", 5, 50, 0.4), *counted("cuda:1", 1, 10, 0.6)]:
        second.by_device(metric)
    assert shown(metrics, "fletcher_gpu_sequences_total") == {"cuda:0": 15, "cuda:1": 1}
    assert shown(metrics, "fletcher_vram_allocated_bytes") == {"cuda:0": 150, "cuda:1": 10}
    assert shown(metrics, "fletcher_gpu_weight") == pytest.approx({"cuda:0": 0.3, "cuda:1": 0.6})
    second.leave()
    assert shown(metrics, "fletcher_gpu_sequences_total") == {"cuda:0": 15, "cuda:1": 1}
    assert shown(metrics, "fletcher_vram_allocated_bytes") == {"cuda:0": 100}
    assert shown(metrics, "fletcher_gpu_weight") == {"cuda:0": 0.2}
