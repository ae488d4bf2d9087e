"""`Workers`: one session computes several batches at the same time, another a batch that runs alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import TOKEN_OUTPUTS, TensorInfo
from fletcher.runtime.batch import Batch
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CanaryError, NotFiniteError, ProviderError
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.session.session import Session
from fletcher.runtime.tuning import history
from fletcher.runtime.tuning.history import measuring_key, remember
from fletcher.runtime.tuning.measurement import Measurement
from fletcher.runtime.workers.pool import Workers


class Marked(Session):
    """Session that returns its mark in every vector. Clearing the event `free` makes its runs wait."""

    provider = "marked"

    def __init__(self, mark: float) -> None:
        self.mark = np.float32(mark)
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.closed = False

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        self.begun.set()
        assert self.free.wait(30)
        return np.full((len(batch), 1), self.mark)

    def close(self) -> None:
        self.closed = True


MANY, ALONE = 1.0, 2.0
TEXT = Encodings.from_lists([[1, 2, 3]])
TEXTS = Encodings.from_lists([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Yield workers whose batches hold one text of three tokens."""
    outputs = [TensorInfo(name="vectors", dtype="float32", shape=("texts", 1))]
    opened = Workers(Marked(MANY), outputs, name="test", count=2, token_budget=3, alone=Marked(ALONE))
    yield opened
    opened.close()


def test_a_batch_that_runs_alone_has_its_own_session(workers: Workers) -> None:
    assert workers.run(TEXT).tolist() == workers.compute(TEXT).tolist() == [[ALONE]]
    assert workers.run(TEXTS).tolist() == [[ALONE]] * 3  # in parts, one after the other


def test_the_batches_of_a_job_are_computed_at_the_same_time(workers: Workers) -> None:
    assert workers.compute(TEXTS).tolist() == [[MANY]] * 3
    assert workers.start(TEXT).result().tolist() == [[MANY]]


@pytest.mark.parametrize("first", ["session", "alone"])
def test_a_batch_that_comes_while_another_runs_stays_on_one_processor(workers: Workers, first: str) -> None:
    held: Marked = getattr(workers, first)
    held.free.clear()
    other = threading.Thread(target=workers.start(TEXT).result if first == "session" else lambda: workers.run(TEXT))
    other.start()
    assert held.begun.wait(30)
    if first == "alone":
        assert workers.run(TEXT).tolist() == [[MANY]]
    else:
        threading.Timer(0.05, held.free.set).start()
        assert workers.run(TEXT).tolist() == [[MANY]]
    held.free.set()
    other.join()
    assert workers.run(TEXT).tolist() == [[ALONE]]  # the next batch is alone again


@pytest.mark.parametrize(
    ("devices", "more", "sizes"), [(1, False, [8, 8]), (2, True, [8, 8]), (2, False, [4, 3, 2, 2, 2, 2, 1])]
)
def test_several_devices_finish_a_job_together(devices: int, more: bool, sizes: list[int]) -> None:
    seen: list[int] = []

    class Counting(Marked):
        def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
            seen.append(len(batch))
            return super().run(batch, output)

    session = Counting(1)
    session.devices = devices
    outputs = (TensorInfo("vectors", "float32", ("texts", 1)),)
    with closing(Workers(session, outputs, name="x", count=1, token_budget=8)) as workers:
        values = workers.start(Encodings.from_lists([[1]] * 16), more=more).result()
    assert seen == sizes
    np.testing.assert_array_equal(values, np.ones((16, 1)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_errors(dtype: type[np.floating], bad: float) -> None:
    class Given(Marked):
        def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
            return np.array([[65_504, -65_504, 6e-8], [0, bad, 1]], dtype)[: len(batch)]

    one, two = (Encodings.from_lists([[1]] * count) for count in (1, 2))
    with closing(
        Workers(Given(0), (TensorInfo("vectors", "float32", ("texts", 3)),), name="x", count=1, token_budget=9)
    ) as run:
        assert run.run(one).shape == (1, 3)
        with pytest.raises(ProviderError, match="NaN or infinity for row 1 of a batch of 2"):
            run.run(two)


@pytest.mark.parametrize("by_token", [False, True])
def test_the_error_has_all_rows_with_nan(by_token: bool) -> None:
    """Rows 1, 4 and 5 of six texts, which are computed in two batches."""

    class Given(Marked):
        def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
            assert isinstance(batch, Encodings)
            last = batch.ids[batch.offsets[1:] - 1]
            values = np.where(np.isin(batch.ids if by_token else last, [21, 24, 25]), np.nan, 1.0)
            return values[:, None].astype(np.float32)

    texts = Encodings.from_lists([[1, 20], [1, 21], [1, 1, 22], [1, 23], [1, 24], [1, 25]])
    name = next(iter(TOKEN_OUTPUTS)) if by_token else "vectors"
    outputs = (TensorInfo(name, "float32", ("texts", 1)),)
    with closing(Workers(Given(0), outputs, name="x", count=1, token_budget=7)) as run:
        with pytest.raises(NotFiniteError) as caught:
            run.run(texts)
        assert caught.value.rows == (1, 4, 5)
        assert run.run(texts.select(np.array([0, 2, 3]))).shape[1] == 1


def test_checks_see_both_and_both_are_closed(workers: Workers) -> None:
    assert [values.tolist() for values in workers.by_session(TEXTS)] == [[[MANY]] * 3, [[ALONE]] * 3]
    workers.close()
    assert [getattr(workers, name).closed for name in ("session", "alone")] == [True, True]


@pytest.fixture
def prefers_two(tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an artifact with stored measurements, according to which one text is faster on two threads."""
    monkeypatch.setattr(history, "cache_folder", lambda given: tmp_path)
    artifact = Artifact.open(tiny_artifact)
    rows = [
        Measurement(
            layout=WorkerLayout("mlas", workers, threads, 512),
            latency_ms=latency,
            tokens_per_s=speed,
            texts_per_s=1.0,
            min_cosine=1.0,
            max_abs=0.0,
        )
        for workers, threads, latency, speed in ((2, 1, 3.0, 1000.0), (1, 2, 1.5, 800.0))
    ]
    remember(measuring_key(), artifact.digest, artifact.variant().name, rows)
    return tiny_artifact


def test_a_load_opens_both_sessions_if_that_was_measured_to_be_faster(prefers_two: Path) -> None:
    texts = ["one text", "and another", "a third"]
    with (
        Encoder.load(prefers_two) as encoder,
        Encoder.load(prefers_two, memory_limit=1 << 34) as limited,
        Encoder.load(prefers_two, workers=2) as fixed,
    ):
        assert encoder.info.workers == 2
        assert encoder.info.reason.endswith("; a batch that runs alone, on 2 threads, is computed 2.00 times faster")
        alone = encoder._workers.alone
        assert alone is not None and alone is not encoder._workers.session
        assert limited._workers.alone is fixed._workers.alone is None  # these options exclude a second session
        many = fixed.embed(texts).vectors
        np.testing.assert_allclose(encoder.embed(texts).vectors, many, rtol=0, atol=1e-6)
        for index, text in enumerate(texts):
            np.testing.assert_allclose(encoder.embed([text]).vectors[0], many[index], rtol=0, atol=1e-6)


def test_the_canary_runs_on_both(prefers_two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlasSession.__init__

    def init(self: MlasSession, graph: Path, *, threads: int) -> None:
        real(self, graph, threads=threads)
        if threads == 2:
            run = self.run
            monkeypatch.setattr(self, "run", lambda *args: -run(*args), raising=False)

    monkeypatch.setattr(MlasSession, "__init__", init)
    with pytest.raises(CanaryError, match="does not reproduce its canary"):
        Encoder.load(prefers_two)


def test_an_error_of_the_second_session_is_only_logged(
    prefers_two: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = MlasSession.__init__

    def init(self: MlasSession, graph: Path, *, threads: int) -> None:
        if threads == 2:
            raise ProviderError("no room")
        real(self, graph, threads=threads)

    monkeypatch.setattr(MlasSession, "__init__", init)
    with Encoder.load(prefers_two) as encoder:
        assert encoder._workers.alone is None
        assert encoder.embed(["a text"]).vectors.shape == (1, 32)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "no session for single batches"
    ]
