"""Choice of a layout from measurements, and the cache of measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.runtime.errors import ProviderError
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning import history
from fletcher.runtime.tuning.choice import choose
from fletcher.runtime.tuning.history import forget, recall, remember
from fletcher.runtime.tuning.measurement import Measurement


def measured(
    provider: str, speed: float, cosine: float = 1.0, budget: int = 512, noise: float = 0.0, max_abs: float = 0.0
) -> Measurement:
    layout = WorkerLayout(provider, 2, 1, budget)
    return Measurement(
        layout=layout,
        latency_ms=1.0,
        tokens_per_s=speed,
        texts_per_s=1.0,
        min_cosine=cosine,
        max_abs=max_abs,
        noise=noise,
    )


MLAS, OPENVINO, BF16 = (
    measured("mlas", 1000), measured("openvino", 1030), measured("openvino-bf16", 2100, 0.99994)
)  # fmt: skip


def test_a_layout_must_be_clearly_faster_to_be_chosen() -> None:
    assert choose([MLAS, OPENVINO], min_cosine=0.999999).layout.provider == "mlas"
    assert choose([MLAS, measured("openvino", 1060)], min_cosine=0.999999).layout.provider == "openvino"
    assert choose([MLAS, measured("mlas", 1200, budget=256)], min_cosine=0.9).layout.token_budget == 256


def test_less_accurate_layouts_need_permission() -> None:
    choice = choose([MLAS, BF16], min_cosine=0.999999)
    assert choice.layout.provider == "mlas"
    assert "openvino-bf16 would be 2.10 times as fast at 0.999940: allow it with --min-cosine 0.9999" in choice.reason
    allowed = choose([MLAS, BF16], min_cosine=0.9999)
    assert allowed.layout.provider == "openvino-bf16"
    assert "mlas was 2.10 times slower" in allowed.reason


def test_without_a_usable_layout_the_error_names_the_reasons() -> None:
    broken = Measurement(layout=MLAS.layout, problem="it would not load")
    with pytest.raises(ProviderError, match=r"mlas: it would not load; openvino-bf16: cosine 0\.999940, max abs"):
        choose([broken, BF16], min_cosine=0.99999)
    assert choose([broken, OPENVINO], min_cosine=0.99999).layout.provider == "openvino"


def test_measurements_are_cached_by_machine_artifact_and_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path)
    remember("machine", "digest", "cpu-fp32", [MLAS, BF16])
    assert recall("machine", "digest", "cpu-fp32") == [MLAS, BF16]
    assert recall("other", "digest", "cpu-fp32") is None
    assert recall("machine", "other", "cpu-fp32") is None
    assert recall("machine", "digest", "cpu-int8") is None
    (file,) = (tmp_path / "devices").iterdir()
    file.write_text("{")
    assert recall("machine", "digest", "cpu-fp32") is None
    forget("machine", "digest", "cpu-fp32")
    forget("machine", "digest", "cpu-fp32")
    assert not list((tmp_path / "devices").iterdir())


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path / "file")
    remember("machine", "digest", "cpu-fp32", [MLAS])
    assert recall("machine", "digest", "cpu-fp32") is None


def test_a_difference_within_the_noise_of_the_rounds_does_not_count() -> None:
    noisy = measured("openvino", 1200, noise=0.15)
    assert choose([measured("mlas", 1000, noise=0.1), noisy], min_cosine=0.9).layout.provider == "mlas"
    assert choose([MLAS, noisy], min_cosine=0.9).layout.provider == "openvino"


def test_a_wrong_element_counts_like_a_wrong_angle() -> None:
    off = measured("openvino", 9000, cosine=0.9999999, max_abs=1e-3)
    choice = choose([MLAS, off], min_cosine=0.999999, max_abs=1e-5)
    assert choice.layout.provider == "mlas"
    assert "allow it with --min-cosine 0.9999" in choice.reason
    assert choose([MLAS, off], min_cosine=0.9999).layout.provider == "openvino"
    with pytest.raises(
        ProviderError, match=r"an absolute difference of at most 1e-05: openvino: cosine 1\.000000, max abs 1\.0e-03"
    ):
        choose([off], min_cosine=0.999999, max_abs=1e-5)


def test_a_layout_with_wrong_vectors_is_not_suggested() -> None:
    assert "--min-cosine" not in choose([MLAS, measured("openvino-bf16", 9000, 0.7)], min_cosine=0.999999).reason


def test_providers_without_time_for_a_measurement_are_named() -> None:
    unknown = Measurement(layout=OPENVINO.layout, problem="not measured within 2.5 s: more time")
    missing = Measurement(layout=BF16.layout, problem="openvino is not installed")
    choice = choose([MLAS, unknown, missing], min_cosine=0.9)
    assert choice.reason.endswith("; there was no time to measure openvino: fletcher-serve devices DIR")


def test_a_failure_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path)
    remember("machine", "digest", "cpu-fp32", [MLAS, Measurement(layout=OPENVINO.layout, problem="?", failed=True)])
    assert recall("machine", "digest", "cpu-fp32") is None
    absent = Measurement(layout=OPENVINO.layout, problem="openvino is not installed")
    remember("machine", "digest", "cpu-fp32", [MLAS, absent])
    assert recall("machine", "digest", "cpu-fp32") == [MLAS, absent]


@pytest.mark.parametrize(("old", "new"), [("2", "0"), ("mlas", "tpu"), ("provider", "device")])
def test_a_file_with_impossible_values_is_measured_again(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path)
    remember("machine", "digest", "cpu-fp32", [MLAS])
    (file,) = (tmp_path / "devices").iterdir()
    file.write_text(file.read_text().replace(old, new, 1))
    assert recall("machine", "digest", "cpu-fp32") is None
    file.write_text("[]")
    assert recall("machine", "digest", "cpu-fp32") is None
