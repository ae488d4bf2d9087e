"""What is chosen from measurements, what is remembered, and what a caller's word overrules."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime import choices as choices_module
from fletcher.runtime import devices as devices_module
from fletcher.runtime.affinity import pinning, plan
from fletcher.runtime.choices import Layout, Measurement, choose, forget, recall, remember
from fletcher.runtime.devices import SAMPLE_TOKENS, measure, ragged_sample, settle
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, ProviderError
from fletcher.runtime.machine import Machine, this_machine


def measured(provider: str, speed: float, cosine: float = 1.0, budget: int = 512) -> Measurement:
    layout = Layout(provider, 2, 1, budget)
    return Measurement(
        layout=layout, latency_ms=1.0, tokens_per_s=speed, texts_per_s=1.0, min_cosine=cosine, max_abs=0.0
    )


MLAS, OPENVINO, BF16 = (
    measured("mlas", 1000), measured("openvino", 1030), measured("openvino-bf16", 2100, 0.99994)
)  # fmt: skip


def test_what_is_not_clearly_faster_does_not_win() -> None:
    assert choose([MLAS, OPENVINO], min_cosine=0.999999).layout.provider == "mlas"
    assert choose([MLAS, measured("openvino", 1060)], min_cosine=0.999999).layout.provider == "openvino"
    assert choose([MLAS, measured("mlas", 1200, budget=256)], min_cosine=0.9).layout.token_budget == 256


def test_accuracy_is_not_spent_unasked() -> None:
    choice = choose([MLAS, BF16], min_cosine=0.999999)
    assert choice.layout.provider == "mlas"
    assert "openvino-bf16 would be 2.10 times as fast at 0.999940: allow it with --min-cosine 0.9999" in choice.reason
    allowed = choose([MLAS, BF16], min_cosine=0.9999)
    assert allowed.layout.provider == "openvino-bf16"
    assert "mlas 2.10 times less" in allowed.reason


def test_nothing_that_runs_is_an_error_that_says_why() -> None:
    broken = Measurement(layout=MLAS.layout, problem="it would not load")
    with pytest.raises(ProviderError, match=r"mlas: it would not load; openvino-bf16: cosine 0\.999940"):
        choose([broken, BF16], min_cosine=0.99999)
    assert choose([broken, OPENVINO], min_cosine=0.99999).layout.provider == "openvino"


def test_measurements_are_remembered_by_machine_artefact_and_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices_module, "cache_folder", lambda given: tmp_path)
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


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(choices_module, "cache_folder", lambda given: tmp_path / "file")
    remember("machine", "digest", "cpu-fp32", [MLAS])
    assert recall("machine", "digest", "cpu-fp32") is None


def test_a_load_measures_once_and_remembers(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices_module, "cache_folder", lambda given: tmp_path)
    asked = []
    real = devices_module.measure

    def watched(*args: object, **options: object) -> list[Measurement]:
        asked.append(options)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(devices_module, "measure", watched)
    for _ in range(2):
        with Encoder.load(tiny_artifact) as encoder:
            assert "tokens/s at a cosine of 1.000000" in encoder.reason
    assert len(asked) == 1
    with Encoder.load(tiny_artifact, provider="mlas", workers=3, token_budget=77) as encoder:
        assert (encoder.provider, encoder.workers, encoder.token_budget) == ("MLAS", 3, 77)
        assert encoder.reason == "mlas was asked for"
    with Encoder.load(tiny_artifact, workers=3, token_budget=77) as encoder:
        assert (encoder.workers, encoder.token_budget) == (3, 77)
    assert len(asked) == 1


def test_every_usable_provider_is_measured_and_passes_its_canary(minilm_artifact: Path) -> None:
    artifact = Artifact.open(minilm_artifact)
    told: list[Measurement] = []
    found = measure(artifact, artifact.variant(), seconds=0.1, report=told.append)
    assert found == told
    by_provider = {one.layout.provider: one for one in reversed(found)}
    assert set(by_provider) == {"mlas", "openvino", "openvino-bf16"}
    for name in ("mlas", "openvino"):
        one = by_provider[name]
        assert one.problem is None
        assert one.min_cosine is not None and one.min_cosine > 0.999999
        assert one.latency_ms is not None and one.latency_ms > 0
        assert one.tokens_per_s is not None and one.texts_per_s is not None
        assert one.tokens_per_s > one.texts_per_s > 0
    assert by_provider["mlas"].layout.workers == len(this_machine().processors)


def test_a_provider_that_fails_is_a_row_with_its_reason(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.open(tiny_artifact)

    def refuse(*args: object, **options: object) -> None:
        raise ProviderError("no such operator")

    monkeypatch.setattr("fletcher.runtime.openvino.OpenVinoSession", refuse)
    found = measure(artifact, artifact.variant(), seconds=0.1)
    problems = {one.layout.provider: one.problem for one in found}
    assert problems["openvino"] == "no such operator"
    assert problems["mlas"] is None


def test_an_unknown_provider_is_refused(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    with pytest.raises(InputError, match="there is no provider 'tpu'"):
        settle(artifact, artifact.variant(), provider="tpu")


def test_bf16_passes_a_canary_of_its_own_when_it_was_asked_for(minilm_artifact: Path) -> None:
    with Encoder.load(minilm_artifact, min_cosine=0.9999) as encoder:
        assert encoder.tolerance.min_cosine == 0.9999
        assert encoder.check_canary().min_cosine >= 0.9999


def test_the_sample_is_ragged_and_of_real_tokens() -> None:
    real = Encodings.from_lists([[7] * 300, [8, 9]])
    sample = ragged_sample(real)
    assert sample.num_tokens >= SAMPLE_TOKENS
    assert set(sample.ids.tolist()) == {7, 8, 9}
    assert 3 <= sample.lengths.min() < 20 < 45 < sample.lengths.mean() < 75 < 200 < sample.lengths.max() <= 300


def test_workers_are_spread_over_nodes_by_their_size() -> None:
    one = Machine("", frozenset(), (0, 1, 2, 3), ((0, 1, 2, 3),), 1)
    assert plan(4, one) == []
    assert pinning(4, one) is None
    two = Machine("", frozenset(), (0, 1, 2), ((0, 1), (2,)), 1)
    assert plan(6, two) == [(0, 1), (2,), (0, 1), (0, 1), (2,), (0, 1)]


def test_each_worker_thread_is_bound_to_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr("os.sched_setaffinity", lambda thread, processors: calls.append((thread, *processors)))
    pin = pinning(2, Machine("", frozenset(), (0, 1, 2, 3), ((0, 1), (2, 3)), 1))
    assert pin is not None
    pin()
    pin()
    assert calls == [(0, 0, 1), (0, 2, 3)]
