"""Measurement of an artifact on this machine, and its effect on a load. The tests do not assert a speed."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CanaryError, InputError, ProviderError
from fletcher.runtime.machine.machine import Machine, this_machine
from fletcher.runtime.memory.budget import resident
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.openvino.session import OpenVinoSession
from fletcher.runtime.providers.processor import processor_shapes, shapes_of_one_pool
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning import bench as layout_bench
from fletcher.runtime.tuning import history
from fletcher.runtime.tuning import settle as devices_module
from fletcher.runtime.tuning.history import measuring_key, remember
from fletcher.runtime.tuning.measurement import Measurement
from fletcher.runtime.tuning.settle import measure, settle
from fletcher.runtime.tuning.trial import Trial, ragged_sample, short_text

TWO = Machine("two", frozenset({"avx2"}), (0, 1), ((0, 1),), 1 << 40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUNDS", "MOST_BATCHES"):
        monkeypatch.setattr(layout_bench, name, 1)


@pytest.fixture
def measure_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Return the options of each call of `measure`."""
    calls: list[dict[str, object]] = []
    real = devices_module.measure

    def watched(*args: object, **options: object) -> list[Measurement]:
        calls.append(options)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(devices_module, "measure", watched)
    return calls


def refuse(*args: object, **options: object) -> None:
    raise ProviderError("no such operator")


def shifted(real: Callable[..., NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
    """Return a `run` with wrong vectors."""

    def run(*args: object) -> NDArray[np.float32]:
        return real(*args) + np.float32(0.1)

    return run


def test_every_provider_is_measured_and_reproduces_huggingfaces_canary(minilm_artifact: Path, few_rounds: None) -> None:
    artifact = Artifact.open(minilm_artifact)
    reported: list[Measurement] = []
    measurements = measure(artifact, artifact.variant(), seconds=60, report=reported.append)
    assert measurements == reported
    usual = [one for one in measurements if (one.layout.threads, one.layout.token_budget) == (1, 512)]
    assert {one.layout.provider for one in usual} == {"mlas", "openvino", "openvino-bf16"}
    for one in (one for one in measurements if one.layout.provider != "openvino-bf16"):
        assert one.problem is None
        assert one.min_cosine is not None and one.min_cosine > 0.999999
        assert one.max_abs is not None and one.max_abs < 1e-5
        assert one.latency_ms is not None and one.latency_ms > 0
        assert one.tokens_per_s is not None and one.texts_per_s is not None
        assert one.tokens_per_s > one.texts_per_s > 0
    measured = [one for one in measurements if one.problem is None]
    assert measured[0].layout == WorkerLayout("mlas", len(this_machine().processors), 1, 512)
    assert len({one.layout for one in measured}) == len(measured)
    assert measured[0].noise == 0  # the figures of the others are ratios to this one
    assert {one.noise for one in measured[1:]} == {layout_bench.ONE_ROUND}
    if len(this_machine().processors) > 1:
        assert WorkerLayout("mlas", 1, len(this_machine().processors), 512) in {one.layout for one in measured}
    assert {one.layout.token_budget for one in measured if one.layout.provider == "mlas"} >= {256, 512}


def test_two_sessions_are_open_at_once_at_most(
    tiny_artifact: Path, few_rounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_module, "this_machine", lambda: TWO)
    still_open: list[Trial] = []
    most: list[int] = []

    class Counted(Trial):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            still_open.append(self)
            most.append(len(still_open))

        def close(self) -> None:
            super().close()
            still_open.remove(self)

    monkeypatch.setattr(layout_bench, "Trial", Counted)
    artifact = Artifact.open(tiny_artifact)
    assert len(measure(artifact, artifact.variant(), seconds=60)) > 3
    assert (max(most), still_open) == (2, [])
    most.clear()
    monkeypatch.setattr(devices_module, "this_machine", lambda: Machine("", frozenset(), (0, 1), ((0, 1),), 1))
    measurements = measure(artifact, artifact.variant(), seconds=60)
    assert (max(most), still_open) == (1, [])
    assert sum(one.tokens_per_s is not None for one in measurements) > 3


def test_a_provider_that_fails_has_a_row_with_its_reason(
    tiny_artifact: Path, few_rounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(tiny_artifact)
    monkeypatch.setattr("fletcher.runtime.providers.openvino.session.OpenVinoSession", refuse)
    measurements = measure(artifact, artifact.variant(), seconds=60)
    by_provider = {one.layout.provider: one for one in measurements}
    assert (by_provider["openvino"].problem, by_provider["openvino"].failed) == ("no such operator", True)
    assert sum(one.layout.provider == "openvino" for one in measurements) == 1
    assert by_provider["mlas"].problem is None


def test_the_next_provider_becomes_the_default_if_the_first_one_fails(
    tiny_artifact: Path, few_rounds: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fletcher.runtime.providers.mlas.provider.MlasSession", refuse)
    artifact = Artifact.open(tiny_artifact)
    with caplog.at_level(logging.WARNING, "fletcher.runtime.tuning.settle"):
        choice = settle(artifact, artifact.variant(), seconds=60)
    assert choice.layout.provider == "openvino"
    skipped = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert skipped == [{"provider": "mlas", "reason": "no such operator"}]
    monkeypatch.setattr("fletcher.runtime.providers.openvino.session.OpenVinoSession", refuse)
    with pytest.raises(ProviderError, match="mlas: no such operator; openvino: no such operator"):
        settle(artifact, msgspec.structs.replace(artifact.variant(), name="other"), seconds=60)


def test_an_old_package_is_logged_and_skipped(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2024.6.0" if name == "openvino" else real(name))
    artifact = Artifact.open(tiny_artifact)
    with caplog.at_level(logging.INFO, "fletcher.runtime.tuning.settle"):
        assert settle(artifact, artifact.variant(), seconds=1).layout.provider == "mlas"
    records = {record.fields["provider"]: record for record in caplog.records}  # type: ignore[attr-defined]
    assert set(records) == {"openvino", "openvino-bf16"} and len(caplog.records) == 2
    assert records["openvino"].levelno == logging.WARNING
    assert "openvino 2024.6.0 is too old" in records["openvino"].fields["reason"]  # type: ignore[attr-defined]


def test_a_provider_whose_canary_fails_is_logged_and_skipped(
    tiny_artifact: Path, few_rounds: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(MlasSession, "run", shifted(MlasSession.run))
    artifact = Artifact.open(tiny_artifact)
    with caplog.at_level(logging.WARNING, "fletcher.runtime.tuning.settle"):
        choice = settle(artifact, artifact.variant(), seconds=60)
    assert choice.layout.provider == "openvino"
    (record,) = caplog.records
    assert record.fields["provider"] == "mlas"  # type: ignore[attr-defined]
    assert "its canary is outside the tolerance: cosine" in record.fields["reason"]  # type: ignore[attr-defined]


def test_an_artifact_that_no_provider_reproduces_fails_its_canary(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (MlasSession, OpenVinoSession):
        monkeypatch.setattr(kind, "run", shifted(kind.run))
    with pytest.raises(CanaryError, match="does not reproduce its canary"):
        Encoder.load(tiny_artifact)


def test_named_providers_are_measured_alone(tiny_artifact: Path, few_rounds: None) -> None:
    artifact = Artifact.open(tiny_artifact)
    measurements = measure(artifact, artifact.variant(), seconds=60, providers=["openvino"])
    assert {one.layout.provider for one in measurements} == {"openvino"}
    with pytest.raises(InputError, match="there is no provider 'tpu'"):
        measure(artifact, artifact.variant(), seconds=1, providers=["tpu"])


def test_a_load_measures_once_and_caches_the_result(
    tiny_artifact: Path, measure_calls: list[dict[str, object]]
) -> None:
    for _ in range(2):
        with Encoder.load(tiny_artifact) as encoder:
            assert "tokens/s at a cosine of 1.000000" in encoder.info.reason
    assert len(measure_calls) == 1
    with Encoder.load(tiny_artifact, workers=3, token_budget=77) as encoder:
        assert (encoder.info.workers, encoder.info.token_budget) == (3, 77)
    assert len(measure_calls) == 1


def test_layouts_that_the_caller_names_are_not_measured(
    tiny_artifact: Path, measure_calls: list[dict[str, object]]
) -> None:
    with Encoder.load(tiny_artifact, provider="mlas", workers=3, token_budget=77) as encoder:
        assert (encoder.info.provider, encoder.info.workers, encoder.info.token_budget) == ("MLAS", 3, 77)
        assert encoder.info.reason == "mlas was requested"
    assert measure_calls == []
    artifact = Artifact.open(tiny_artifact)
    with pytest.raises(InputError, match="there is no provider 'tpu'"):
        settle(artifact, artifact.variant(), provider="tpu")


def test_options_that_the_caller_omits_come_from_cached_measurements(tiny_artifact: Path) -> None:
    def measured(speed: float, provider: str, *shape: int, cosine: float = 1.0) -> Measurement:
        layout = WorkerLayout(provider, *shape)
        return Measurement(layout=layout, tokens_per_s=speed, texts_per_s=1.0, min_cosine=cosine, max_abs=0.0)

    artifact = Artifact.open(tiny_artifact)
    rows = [
        measured(1000, "mlas", 2, 1, 512),
        measured(1100, "openvino", 2, 1, 512),
        measured(3000, "mlas", 1, 2, 512),
        measured(2000, "openvino-bf16", 2, 1, 256, cosine=0.9999),
    ]
    remember(measuring_key(), artifact.digest, "cpu-fp32", rows)

    def settled(**options: int | float) -> WorkerLayout:
        return settle(artifact, artifact.variant(), **options).layout  # type: ignore[arg-type]

    assert settled() == WorkerLayout("mlas", 1, 2, 512)
    assert settled(token_budget=256) == WorkerLayout("mlas", 1, 2, 256)
    assert settled(workers=5) == WorkerLayout("openvino", 5, 1, 512)
    assert settled(workers=2, min_cosine=0.999) == WorkerLayout("openvino-bf16", 2, 1, 256)


def test_a_model_too_slow_to_measure_at_load_runs_in_the_default_layout(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    for _ in range(2):  # the first call measures, the second reads the cache
        choice = settle(artifact, artifact.variant(), seconds=0, token_budget=99)
        assert choice.layout == WorkerLayout("mlas", len(this_machine().processors), 1, 99)
        assert "a measurement takes longer than a load may: measure with fletcher-serve devices DIR" in choice.reason


def test_a_load_within_a_memory_limit_measures_only_what_fits(
    tiny_artifact: Path, measure_calls: list[dict[str, object]], few_rounds: None
) -> None:
    with Encoder.load(tiny_artifact, memory_limit=resident() + (200 << 20)) as encoder:
        assert encoder.info.provider == "MLAS"
        assert (
            "a measurement may exceed the memory limit: measure with fletcher-serve devices DIR" in encoder.info.reason
        )
    assert measure_calls == []
    with Encoder.load(tiny_artifact, memory_limit=1 << 40) as encoder:
        assert "tokens/s at a cosine of" in encoder.info.reason
    assert len(measure_calls) == 1
    with Encoder.load(tiny_artifact, memory_limit=resident() + (200 << 20)) as encoder:
        assert "tokens/s at a cosine of" in encoder.info.reason  # from the cache


def test_bf16_is_checked_with_the_allowed_tolerance(minilm_artifact: Path) -> None:
    with Encoder.load(minilm_artifact, min_cosine=0.9999) as encoder:
        assert encoder.tolerance.min_cosine == 0.9999
        assert encoder.check_canary().min_cosine >= 0.9999


def test_layouts_fill_the_machine() -> None:
    def machine(*nodes: int) -> Machine:
        count = sum(nodes)
        edges = np.cumsum([0, *nodes]).tolist()
        parts = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(edges))
        return Machine("", frozenset(), tuple(range(count)), parts, 1)

    assert processor_shapes(machine(1)) == [(1, 1)]
    assert processor_shapes(machine(4)) == [(4, 1), (1, 4)]
    assert processor_shapes(machine(32, 32)) == [(64, 1), (32, 1), (16, 4), (2, 32), (1, 64), (1, 8)]
    assert processor_shapes(machine(16)) == [(16, 1), (8, 1), (4, 4), (1, 16), (1, 8)]
    # Runs of one ONNX Runtime session share its threads.
    assert shapes_of_one_pool(machine(32, 32)) == [(64, 1), (32, 1), (1, 64), (1, 8)]


def test_the_sample_is_ragged_and_of_real_tokens() -> None:
    real = Encodings.from_lists([[7] * 300, [8, 9]])
    sample = ragged_sample(real, 4096)
    assert 4096 <= sample.num_tokens < 4096 + 300
    assert set(sample.ids.tolist()) == {7, 8, 9}
    assert 3 <= sample.lengths.min() < 20 < 45 < sample.lengths.mean() < 75 < 200 < sample.lengths.max() <= 300
    assert short_text(real).lengths.tolist() == [12]
    assert short_text(Encodings.from_lists([[1], [2, 3]])).lengths.tolist() == [2]
