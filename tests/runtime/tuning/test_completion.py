"""Measurement of providers for which an earlier load had no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime import Artifact
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning import settle as settle_module
from fletcher.runtime.tuning.completion import MOST_TRIES, join, unmeasured
from fletcher.runtime.tuning.history import measuring_key, recall
from fletcher.runtime.tuning.measurement import NOT_MEASURED, Measurement
from fletcher.runtime.tuning.settle import settle

MLAS, OPENVINO = WorkerLayout("mlas", 2, 1, 512), WorkerLayout("openvino", 2, 1, 512)


def measured(layout: WorkerLayout, speed: float) -> Measurement:
    return Measurement(
        layout=layout, latency_ms=1000 / speed, tokens_per_s=speed, texts_per_s=speed / 10, min_cosine=1.0, max_abs=0.0
    )


def missing(layout: WorkerLayout, tries: int = 0) -> Measurement:
    return Measurement(layout=layout, problem=f"{NOT_MEASURED} within 2.5 s", tries=tries)


def test_a_busier_machine_does_not_make_a_later_provider_slower() -> None:
    """The yardstick ran at half its earlier speed, so the later provider's speed counts twice."""
    joined = join([measured(MLAS, 100.0), missing(OPENVINO, 1)], [measured(MLAS, 50.0), measured(OPENVINO, 80.0)])
    assert [(one.layout.provider, one.tokens_per_s) for one in joined] == [("mlas", 100.0), ("openvino", 160.0)]
    assert joined[1].latency_ms == pytest.approx(1000 / 160)
    assert joined[1].texts_per_s == 16.0
    assert not unmeasured(joined)


def test_a_provider_is_tried_a_few_times() -> None:
    stored = [measured(MLAS, 100.0), missing(OPENVINO, 1)]
    for _ in range(MOST_TRIES - 1):
        assert unmeasured(stored) == ["openvino"]
        stored = join(stored, [measured(MLAS, 100.0), missing(OPENVINO)])
    assert stored[1].tries == MOST_TRIES
    assert unmeasured(stored) == []
    assert unmeasured([missing(MLAS), missing(OPENVINO)]) == []  # there is nothing to compare with


def test_a_load_measures_providers_that_an_earlier_load_skipped(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(tiny_artifact)
    requests: list[Sequence[str] | None] = []
    answers = [
        [measured(MLAS, 100.0), missing(OPENVINO)],
        [measured(MLAS, 100.0), measured(OPENVINO, 300.0)],
    ]

    def measure(artifact: Artifact, variant: object, *, seconds: float, providers: Any = None) -> list[Measurement]:
        requests.append(providers)
        return answers[len(requests) - 1]

    monkeypatch.setattr(settle_module, "measure", measure)
    key = f"{measuring_key()}-completion"
    monkeypatch.setattr(settle_module, "measuring_key", lambda: key)
    first = settle(artifact, artifact.variant())
    assert first.layout.provider == "mlas"
    assert "there was no time to measure openvino" in first.reason
    second = settle(artifact, artifact.variant())
    assert second.layout.provider == "openvino"
    assert settle(artifact, artifact.variant()).layout.provider == "openvino"
    assert requests == [None, ["mlas", "openvino"]]
    stored = recall(key, artifact.digest, artifact.variant().name)
    assert stored is not None
    assert [one.tokens_per_s for one in stored] == [100.0, 300.0]
