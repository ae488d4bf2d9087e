"""Several devices behind one session: choice of the device for each batch, failures of devices, and metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import TensorInfo
from fletcher.runtime.batch import Batch
from fletcher.runtime.canary import read_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import DeviceLostError, DeviceMemoryError, InputError, ProviderError
from fletcher.runtime.fleet.fleet import Fleet
from fletcher.runtime.fleet.member import FleetDevice
from fletcher.runtime.fleet.throughput import FORGOTTEN_AFTER, TRUSTED_AFTER, Throughput
from fletcher.runtime.loading import Loaded
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.session.counters import Counters
from fletcher.runtime.session.session import Session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.workers.pool import Workers

OUTPUTS = (TensorInfo("embeddings", "float32", ("n", 2)),)


class FakeSession(Session):
    """Session in which the vector of a text is its first id and its length.

    Attributes:
        fails: returns the error of a run, by the number of the run; None if the run succeeds.
        seconds: time that each token takes.
        seen: first ids of the texts of each computed batch.
    """

    provider = "fake"

    def __init__(self, *, seconds: float = 0.0, fails: Callable[[int], Exception | None] = lambda run: None) -> None:
        self.seconds, self.fails = seconds, fails
        self.seen: list[list[int]] = []
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0
        self._lock = threading.Lock()
        self._engine = threading.Lock()  # a device computes one batch at a time

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        assert not self.closed
        with self._lock:
            self.runs += 1
            error = self.fails(self.runs)
        assert self.gate.wait(20)
        if self.seconds:
            with self._engine:
                time.sleep(self.seconds * batch.num_tokens)
        if error is not None:
            raise error
        first = batch.tensors(["input_ids"])["input_ids"][batch.offsets[:-1]]
        with self._lock:
            self.seen.append(first.tolist())
        return np.stack([first, batch.lengths], axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed += 1


def fleet_of(*sessions: Session, slots: int = 2) -> Fleet:
    return Fleet([FleetDevice(f"cuda:{index}", session, slots) for index, session in enumerate(sessions)])


def one(first: int = 5, length: int = 4) -> Encodings:
    return Encodings.from_lists([[first] * length])


def ragged(count: int) -> tuple[Encodings, NDArray[np.float32]]:
    """Return texts whose first id is their number, and their expected vectors."""
    lengths = np.random.default_rng(0).integers(1, 30, count)
    rows = [[number] * int(length) for number, length in enumerate(lengths)]
    return Encodings.from_lists(rows), np.stack([np.arange(count), lengths], axis=1).astype(np.float32)


def computed_by(*sessions: FakeSession) -> list[int]:
    """Return the first ids of all texts that the sessions computed, sorted."""
    return sorted(first for session in sessions for batch in session.seen for first in batch)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def values(fleet: Fleet, name: str) -> dict[str, float]:
    """Return the values of a metric by device."""
    return {metric.device: metric.value() for metric in fleet.metrics() if metric.name == name}


def test_results_are_in_order_and_every_device_works() -> None:
    sessions = FakeSession(seconds=1e-5), FakeSession(seconds=1e-5)
    encodings, expected = ragged(400)
    fleet = fleet_of(*sessions)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=64)
    np.testing.assert_array_equal(workers.compute(encodings), expected)
    workers.close()
    assert all(session.runs > 10 and session.closed == 1 for session in sessions)
    assert computed_by(*sessions) == list(range(400))


def test_a_faster_device_gets_more_batches(pool: ThreadPoolExecutor) -> None:
    fast, slow = FakeSession(seconds=1e-4), FakeSession(seconds=2e-3)
    with fleet_of(slow, fast) as fleet:
        list(pool.map(lambda _: fleet.run(one(length=20)), range(100)))
        assert 3 * slow.runs < fast.runs
        weights = values(fleet, "fletcher_gpu_weight")
        assert weights["cuda:1"] > 2 * weights["cuda:0"]
        assert sum(weights.values()) == pytest.approx(1)


def test_the_last_batch_waits_for_the_fast_device_rather_than_taking_the_slow_one(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.runtime.fleet.throughput.FORGOTTEN_AFTER", 1000.0)  # however slow this machine is
    slow, fast = FakeSession(seconds=1e-2), FakeSession(seconds=1e-4)
    with fleet_of(slow, fast, slots=1) as fleet:
        for _ in range(30):  # so that both are measured
            list(pool.map(lambda _: fleet.run(one()), range(2)))
        before = slow.runs
        fast.gate.clear()
        first = pool.submit(fleet.run, one())
        until(lambda: fast.runs + slow.runs > before and not fast.gate.is_set() and bool(fleet._members[1].running))
        last = pool.submit(fleet.run, one())
        until(lambda: len(fleet._waiting) == 1)  # the slow device stays free
        fast.gate.set()
        first.result(20)
        last.result(20)
        assert slow.runs == before


def test_a_waiting_batch_goes_to_a_slow_device_only_if_it_ends_sooner_there(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.runtime.fleet.throughput.FORGOTTEN_AFTER", 1000.0)  # however slow this machine is
    slow, fast = FakeSession(), FakeSession()
    with fleet_of(slow, fast, slots=1) as fleet:
        for member, seconds in zip(fleet._members, (4.0, 1.0), strict=True):
            member.speed.begin(time.perf_counter())
            for _ in range(TRUSTED_AFTER + 1):  # the first run of a session does not count
                member.speed._mark = time.perf_counter() - seconds
                member.speed.end(time.perf_counter(), 0.0, 100, 1)
        slow.gate.clear()
        fast.gate.clear()
        futures = []
        for number in range(5):
            futures.append(pool.submit(fleet.run, one(number)))
            until(lambda: sum(m.running for m in fleet._members) + len(fleet._waiting) == len(futures))
            # The slow device has a quarter of the speed: it ends its first batch when the fast device ends its fourth.
            assert [member.running for member in fleet._members] == [int(number >= 3), 1]
        fast.gate.set()
        for number in (0, 1, 2, 4):
            futures[number].result(20)
        assert slow.runs == 1
        slow.gate.set()
        np.testing.assert_array_equal(futures[3].result(20), [[3, 4]])


def test_no_more_batches_run_than_there_are_slots(pool: ThreadPoolExecutor) -> None:
    session = FakeSession()
    session.gate.clear()
    with fleet_of(session, slots=3) as fleet:
        futures = [pool.submit(fleet.run, one()) for _ in range(6)]
        until(lambda: len(fleet._waiting) == 3)
        assert session.runs == 3
        session.gate.set()
        for future in futures:
            future.result(20)
    assert session.runs == 6


@pytest.mark.parametrize("error", [DeviceLostError("illegal memory access"), RuntimeError("CUDA failure 700")])
def test_no_text_is_lost_with_a_device_that_fails_during_a_run(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = FakeSession(seconds=1e-5)
    failing = FakeSession(seconds=1e-5, fails=lambda run: error if run > 5 else None)
    encodings, expected = ragged(600)
    fleet = fleet_of(failing, healthy)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=64)
    with caplog.at_level(logging.WARNING, "fletcher.runtime.fleet.fleet"):
        np.testing.assert_array_equal(workers.compute(encodings), expected)
    assert [record.message for record in caplog.records] == ["device taken out"]
    assert computed_by(healthy, failing) == list(range(600))
    assert len(failing.seen) == 5
    assert values(fleet, "fletcher_gpu_in_service") == {"cuda:0": 0, "cuda:1": 1}
    assert values(fleet, "fletcher_gpu_outages_total") == {"cuda:0": 1, "cuda:1": 0}
    assert 1 <= values(fleet, "fletcher_gpu_failures_total")["cuda:0"] <= 2  # batches may have failed in both slots
    assert values(fleet, "fletcher_gpu_weight") == {"cuda:0": 0, "cuda:1": 1}
    assert sum(values(fleet, "fletcher_gpu_sequences_total").values()) == 600
    workers.close()


def test_without_a_device_the_error_names_the_failure_of_each(pool: ThreadPoolExecutor) -> None:
    def lost(number: int) -> FakeSession:
        return FakeSession(fails=lambda run: DeviceLostError(f"gpu {number} fell off the bus"))

    with (
        fleet_of(lost(0), lost(1)) as fleet,
        pytest.raises(DeviceLostError, match=r"cuda:0: .*gpu 0 fell off.*cuda:1: .*gpu 1 fell off"),
    ):
        fleet.run(one())


def test_waiting_batches_fail_when_the_last_device_is_lost(pool: ThreadPoolExecutor) -> None:
    session = FakeSession(fails=lambda run: DeviceLostError("gone"))
    session.gate.clear()
    with fleet_of(session, slots=1) as fleet:
        futures = [pool.submit(fleet.run, one()) for _ in range(3)]
        until(lambda: len(fleet._waiting) == 2)
        session.gate.set()
        for future in futures:
            with pytest.raises(DeviceLostError, match="gone"):
                future.result(20)
    assert session.runs == 1


def test_a_batch_on_which_every_device_fails_does_not_remove_the_last() -> None:
    def poisoned() -> FakeSession:
        session = FakeSession()
        session.fails = lambda run: RuntimeError("bad batch") if run == 1 else None
        return session

    with fleet_of(poisoned(), poisoned()) as fleet:
        with pytest.raises(ProviderError, match=r"failed on several devices\. The last one, cuda:1, stays in service"):
            fleet.run(one())
        assert values(fleet, "fletcher_gpu_in_service") == {"cuda:0": 0, "cuda:1": 1}
        np.testing.assert_array_equal(fleet.run(one(7, 3)), [[7, 3]])


@pytest.mark.parametrize("assigned", [False, True])
def test_an_interrupted_wait_leaves_no_slot_taken(
    assigned: bool, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession()
    with fleet_of(session, slots=1) as fleet:
        session.gate.clear()
        first = pool.submit(fleet.run, one(1))
        until(lambda: session.runs == 1)
        wait_for = fleet._changed.wait_for

        def interrupt(happens: Callable[[], bool], timeout: float | None = None) -> bool:
            if assigned:
                session.gate.set()
                wait_for(happens, timeout)
            raise KeyboardInterrupt

        monkeypatch.setattr(fleet._changed, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fleet.run(one(2))
        monkeypatch.undo()
        session.gate.set()
        np.testing.assert_array_equal(first.result(20), [[1, 4]])
        np.testing.assert_array_equal(fleet.run(one(3)), [[3, 4]])
        assert (session.runs, fleet._waiting, fleet._members[0].running, fleet._members[0].tokens_in_progress) == (
            2,
            [],
            0,
            0,
        )


def test_invalid_input_is_an_error_and_removes_no_device() -> None:
    session = FakeSession(fails=lambda run: InputError("id 9 is outside the vocabulary") if run == 1 else None)
    with fleet_of(session) as fleet:
        with pytest.raises(InputError, match="id 9"):
            fleet.run(one())
        assert fleet.run(one()).shape == (1, 2)
        assert values(fleet, "fletcher_gpu_failures_total") == {"cuda:0": 0}


def test_a_device_without_memory_for_a_batch_stays_and_another_computes_it() -> None:
    full = FakeSession(fails=lambda run: DeviceMemoryError("full"))
    with fleet_of(full, FakeSession()) as fleet:
        np.testing.assert_array_equal(fleet.run(one(3, 2)), [[3, 2]])
        assert values(fleet, "fletcher_gpu_in_service") == {"cuda:0": 1, "cuda:1": 1}
        assert full.runs == 1
    with (
        fleet_of(full := FakeSession(fails=lambda run: DeviceMemoryError("full"))) as fleet,
        pytest.raises(DeviceMemoryError, match="full"),
    ):
        fleet.run(one())
    assert full.runs == 1


def test_a_lost_device_comes_back_once_its_check_passes(caplog: pytest.LogCaptureFixture) -> None:
    lost = FakeSession(fails=lambda run: DeviceLostError("gone"))
    opened: list[FakeSession] = []
    checked: list[Session] = []

    def reopen() -> FakeSession:
        assert lost.closed == 1  # the new session needs its memory
        if not opened:
            opened.append(FakeSession())
            raise ProviderError("the driver does not answer")
        opened.append(FakeSession())
        return opened[-1]

    def check(session: Session) -> None:
        checked.append(session)
        if len(checked) == 1:
            raise ProviderError("wrong vectors")

    spare = FakeSession()
    devices = [FleetDevice("cuda:0", lost, open=reopen), FleetDevice("cuda:1", spare)]
    with caplog.at_level(logging.WARNING), Fleet(devices, check=check, first_retry=0.001, last_retry=0.002) as fleet:
        assert fleet.run(one()).shape == (1, 2)
        until(lambda: values(fleet, "fletcher_gpu_in_service")["cuda:0"] == 1)
        assert checked == opened[1:]
        assert opened[1].closed == 1  # this session failed the check
        before = spare.runs
        fleet.run(one())
        assert (opened[2].runs, spare.runs) == (1, before)
    assert [record.message for record in caplog.records] == ["device taken out", "device back in service"]
    assert opened[2].closed == 1


def test_a_session_that_still_computes_is_not_closed_when_its_device_is_lost(pool: ThreadPoolExecutor) -> None:
    """The other batch may still succeed, and then its result is used."""
    lost = FakeSession(fails=lambda run: DeviceLostError("gone") if run == 2 else None)
    reopened = threading.Event()

    def reopen() -> FakeSession:
        reopened.set()
        return FakeSession()

    with Fleet(
        [FleetDevice("cuda:0", lost, open=reopen), FleetDevice("cuda:1", FakeSession())], first_retry=0.001
    ) as fleet:
        original, release = lost.run, threading.Event()

        def slow_first(batch: Batch, output: str | None = None) -> NDArray[np.float32]:
            vectors = original(batch, output)
            assert release.wait(20)
            return vectors

        lost.run = slow_first  # type: ignore[method-assign]
        first = pool.submit(fleet.run, one(1))
        until(lambda: lost.runs == 1)
        lost.run = original  # type: ignore[method-assign]
        fleet._members[1].tokens_in_progress += 10_000  # so that the next batch does not go to the other device
        np.testing.assert_array_equal(fleet.run(one(2)), [[2, 4]])
        fleet._members[1].tokens_in_progress -= 10_000
        assert not reopened.wait(0.02)
        assert lost.closed == 0
        release.set()
        np.testing.assert_array_equal(first.result(20), [[1, 4]])
        assert reopened.wait(20)
        assert lost.closed == 1


def test_a_closed_fleet_rejects_batches_and_reopens_no_device() -> None:
    opened: list[int] = []

    def reopen() -> FakeSession:
        opened.append(1)
        return FakeSession()

    lost = FakeSession(fails=lambda run: DeviceLostError("gone"))
    fleet = Fleet([FleetDevice("cuda:0", lost, open=reopen)], first_retry=30)
    with pytest.raises(DeviceLostError, match="Fletcher opens them again"):
        fleet.run(one())
    fleet.close()
    assert not any(thread.is_alive() for thread in fleet._recovering)
    assert opened == []
    with pytest.raises(ProviderError, match="was closed"):
        fleet.run(one())


def test_threads_are_moved_near_the_device_and_only_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr("os.sched_setaffinity", lambda thread, processors: calls.append(processors))
    first, second = FakeSession(), FakeSession()
    with Fleet(
        [FleetDevice("a", first, 1, (0, 1)), FleetDevice("b", second, 1, (2, 3)), FleetDevice("c", FakeSession(), 1)]
    ) as fleet:

        def work() -> None:
            for busy in ((), (), (0,), (0, 1), ()):
                for index in busy:
                    fleet._members[index].tokens_in_progress += 1000
                fleet.run(one())
                for index in busy:
                    fleet._members[index].tokens_in_progress -= 1000

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert calls == [(0, 1), (2, 3), (0, 1)]
        fleet.run(one())
        assert len(calls) == 3  # the main thread is not moved


def test_a_fleet_needs_devices_with_different_names() -> None:
    for devices in (
        [],
        [FleetDevice("a", FakeSession()), FleetDevice("a", FakeSession())],
        [FleetDevice("a", FakeSession(), 0)],
    ):
        with pytest.raises(InputError, match="different names and at least one slot each"):
            Fleet(devices)


def test_no_text_is_lost_or_repeated_while_devices_fail_and_return() -> None:
    """Hundreds of batches run while devices fail and are opened again."""

    def flaky() -> FakeSession:
        return FakeSession(seconds=1e-6, fails=lambda run: RuntimeError("flaky") if run % 23 == 0 else None)

    devices = [FleetDevice(f"cuda:{index}", flaky(), open=flaky) for index in range(3)]
    encodings, expected = ragged(3000)
    fleet = Fleet([*devices, FleetDevice("steady", FakeSession(seconds=1e-5))], first_retry=0.001, last_retry=0.001)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=32)
    np.testing.assert_array_equal(workers.compute(encodings), expected)
    assert sum(values(fleet, "fletcher_gpu_sequences_total").values()) == 3000
    assert sum(values(fleet, "fletcher_gpu_tokens_total").values()) == encodings.num_tokens
    assert sum(values(fleet, "fletcher_gpu_outages_total").values()) > 3
    workers.close()
    assert all(member.running == member.tokens_in_progress == 0 for member in fleet._members)


def test_unknown_memory_of_a_lost_device_is_nan() -> None:
    def lost() -> float:
        raise ProviderError("the driver does not answer")

    devices = [
        FleetDevice("cuda:0", FakeSession(), memory=lost),
        FleetDevice("cuda:1", FakeSession(), memory=lambda: 7),
    ]
    with Fleet(devices) as fleet:
        allocated = values(fleet, "fletcher_vram_allocated_bytes")
        assert np.isnan(allocated["cuda:0"])
        assert allocated["cuda:1"] == 7


def test_counts_of_sessions_are_shown_and_kept_after_their_end() -> None:
    class Counting(FakeSession):
        def counters(self) -> Counters:
            return {"cuda_graph_replays": ("Batches replayed", lambda: float(self.runs))}

    opened = Counting()
    lost = Counting(fails=lambda run: DeviceLostError("gone") if run == 2 else None)
    with Fleet([FleetDevice("cuda:0", lost, open=lambda: opened)], first_retry=0.001) as fleet:
        metric = next(metric for metric in fleet.metrics() if metric.name == "fletcher_cuda_graph_replays_total")
        fleet.run(one())
        assert (metric.device, metric.kind, metric.value()) == ("cuda:0", "total", 1)
        with pytest.raises(DeviceLostError):
            fleet.run(one())
        until(lambda: values(fleet, "fletcher_gpu_in_service") == {"cuda:0": 1})
        fleet.run(one())
        assert metric.value() == 3


def test_an_encoder_on_a_fleet_returns_the_same_vectors_and_counts_by_device(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    variant = artifact.variant()
    tokenizer = Tokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
    texts = ["one", "another text", "the third"]
    with Encoder.load(tiny_artifact, provider="mlas") as plain:
        expected = plain.embed(texts).vectors
        assert plain.metrics().devices == ()
    fleet = fleet_of(open_session(artifact, variant), open_session(artifact, variant))
    workers = Workers(fleet, variant.outputs, name="fleet", count=2, token_budget=64)
    loaded = Loaded(variant, "mlas", tokenizer, workers, None, "for the test", variant.tolerance)
    with Encoder(artifact, loaded) as encoder:
        np.testing.assert_array_equal(encoder.embed(texts).vectors, expected)
        assert encoder.require_canary().passed
        counted = values(fleet, "fletcher_gpu_sequences_total")
        shown = {
            metric.device: metric.value()
            for metric in encoder.metrics().devices
            if metric.name == "fletcher_gpu_sequences_total"
        }
        assert shown == counted
        assert set(counted) == {"cuda:0", "cuda:1"}
        # Which of two equal devices takes a batch is a matter of timing; their sum is not.
        assert sum(counted.values()) == len(texts) + len(read_canary(artifact.canary_file).texts)
        assert encoder.info.provider == "MLAS"


def test_throughput_counts_overlapping_batches_and_omits_the_first() -> None:
    speed = Throughput()
    speed.begin(0.0)
    speed.end(9.0, 0.0, 100, 10)  # loads kernels
    for second in range(10, 10 + TRUSTED_AFTER):
        assert speed.tokens is None
        speed.end(float(second), 0.0, 100, 10)  # begins with the others, and ends one second after the one before
    assert speed.tokens == pytest.approx(100)
    now = 9.0 + TRUSTED_AFTER
    assert not speed.is_old(now + 0.5)
    speed.begin(now + 0.5)  # half a second without batches does not count
    speed.end(now + 1.0, now + 0.5, 100, 10)
    past = sum(0.9**age for age in range(1, TRUSTED_AFTER + 1))
    assert speed.tokens == pytest.approx(100 * (past + 1) / (past + 0.5))
    assert speed.texts == pytest.approx(10 * (past + 1) / (past + 0.5))
    assert speed.busy_seconds == pytest.approx(9 + TRUSTED_AFTER + 0.5)
    assert speed.batch_seconds == pytest.approx(0.5)
    later = now + 2.0 + FORGOTTEN_AFTER
    assert speed.is_old(later)
    speed.begin(later)
    assert speed.tokens is None
    speed.end(later + 1, later, 50, 1)  # one batch is enough if the session has already run
    assert speed.tokens == pytest.approx(50)
