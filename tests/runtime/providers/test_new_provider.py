"""New provider: one object and one line of the registry are sufficient."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.artifact.memory_shape import MemoryFactors
from fletcher.runtime.batch import Batch
from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import CanaryError, InputError, ProviderError
from fletcher.runtime.machine.machine import Machine, this_machine
from fletcher.runtime.memory.budget import resident
from fletcher.runtime.providers import registry
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.provider import MemoryUse, Needs, OpenOptions, Provider, Tuning
from fletcher.runtime.providers.selection import check_provider, default_provider
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.session.session import Session
from fletcher.runtime.tuning import bench, history
from fletcher.runtime.tuning.history import measuring_key
from fletcher.runtime.tuning.settle import measure, settle
from fletcher.serve.commands.cli import app

MIB = 1 << 20
TEXTS = ["hello world", "a", "the quick brown fox"]


class ToySession(Session):
    """Session of ONNX Runtime under another name.

    Attributes:
        shift: number that is added to every vector.
        opened: options of every session that was opened.
    """

    provider = "Toy"
    shift = 0.0
    opened: list[OpenOptions] = []  # noqa: RUF012  one list for the test

    def __init__(self, artifact: Artifact, variant: Variant, options: OpenOptions) -> None:
        self.opened.append(options)
        self._inner = MlasSession(artifact.path / variant.file, threads=options.threads)

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        return self._inner.run(batch, output) + np.float32(self.shift)

    def close(self) -> None:
        self._inner.close()


def problem(machine: Machine) -> str | None:
    return None if machine.processors else "there is no processor"


TOY = Provider(
    name="toy",
    title="Toy",
    targets=("cpu",),
    device_kind="cpu",
    needs=Needs(package="onnxruntime", oldest=(1, 23), extra="cpu", problem=problem),
    open=ToySession,
    memory=MemoryUse(factors=MemoryFactors(2.0, 2.0, 2.0, 2.0), kept=10 * MIB, shared=False),
    tuning=Tuning(shapes=lambda machine: [(2, 1), (3, 1), (1, 2)], token_budget=128),
    engines=("numpy",),
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Register the provider. Measurements go to a folder of the test."""
    key = measuring_key()
    monkeypatch.setattr(registry, "PROVIDERS", (*registry.PROVIDERS, TOY))
    assert measuring_key() != key  # measurements depend on the version of the engine
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path / "cache")
    for name in ("ROUNDS", "MOST_BATCHES"):
        monkeypatch.setattr(bench, name, 1)
    monkeypatch.setattr(ToySession, "opened", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield


def test_an_encoder_loads_on_the_provider_and_returns_the_vectors(tiny_artifact: Path) -> None:
    with Encoder.load(tiny_artifact, provider="mlas") as reference:
        expected = reference.embed(TEXTS).vectors
    with Encoder.load(tiny_artifact, provider="toy") as encoder:
        assert (encoder.info.provider, encoder.info.provider_name, encoder.info.fallback) == ("Toy", "toy", None)
        assert (encoder.info.workers, encoder.info.token_budget) == (2, 128)
        np.testing.assert_array_equal(encoder.embed(TEXTS).vectors, expected)
        assert encoder.metrics().devices == ()
    assert ToySession.opened == [OpenOptions(threads=1, workers=2)]


def test_the_canary_of_the_provider_is_checked(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToySession, "shift", 0.1)
    with pytest.raises(CanaryError, match="on Toy"):
        Encoder.load(tiny_artifact, provider="toy")


def test_a_memory_limit_uses_the_factors_of_the_provider(tiny_artifact: Path) -> None:
    with pytest.raises(InputError, match=r"needs .* on each of 2 workers"):
        Encoder.load(tiny_artifact, provider="toy", memory_limit=10 * MIB)
    limit = resident() + 400 * MIB
    budgets = []
    for provider in ("mlas", "toy"):
        with Encoder.load(tiny_artifact, provider=provider, workers=2, memory_limit=limit) as encoder:
            budget = encoder._workers._budget
            assert budget is not None
            budgets.append(budget)
            assert len(encoder.embed(TEXTS)) == len(TEXTS)
    assert budgets[1].shape.token == 2 * budgets[0].shape.token
    assert budgets[0].gate.capacity - budgets[1].gate.capacity >= 15 * MIB  # 10 MiB of kernels for each of two workers


def test_layouts_of_the_provider_are_measured_and_auto_can_choose_it(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    rows = measure(artifact, artifact.variant(), seconds=60, providers=["toy"])
    layouts = [row.layout for row in rows if row.problem is None]
    assert layouts[0] == WorkerLayout("toy", 2, 1, 128)
    assert {(one.workers, one.threads) for one in layouts} == {(2, 1), (3, 1), (1, 2)}
    history.remember(measuring_key(), artifact.digest, "cpu-fp32", rows)
    assert settle(artifact, artifact.variant()).layout.provider == "toy"


@pytest.mark.usefixtures("real_measuring")
def test_devices_lists_and_measures_the_provider(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def devices(*args: str) -> str:
        with pytest.raises(SystemExit) as caught:
            run(app, ["devices", *args])
        assert caught.value.code == 0
        return capsys.readouterr().out

    assert "toy ready" in {" ".join(line.split()) for line in devices().splitlines()}
    report = json.loads(devices(str(tiny_artifact), "--seconds", "60", "--json"))
    assert {"toy", "mlas"} <= {row["layout"]["provider"] for row in report["measurements"] if row["problem"] is None}


def test_messages_list_the_provider(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no provider 'tpu': use auto, mlas, .*, toy$"):
        check_provider("tpu")
    assert default_provider("cpu") == "mlas"  # the first of the registry
    nothing = Machine("", frozenset(), (), ((),), 0)
    monkeypatch.setattr("fletcher.runtime.providers.opening.this_machine", lambda: nothing)
    artifact = Artifact.open(tiny_artifact)
    with pytest.raises(ProviderError, match="the provider toy cannot be used here: there is no processor"):
        open_session(artifact, artifact.variant(), provider="toy")
    assert this_machine().processors
