"""Several devices behind one session: where batches go, what happens to a device that fails, and what is counted."""

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
    """Each text's vector is its first id and its length.

    Attributes:
        fails: what a run raises, by the number of the run; None where it works.
        seconds: a token takes.
        seen: first ids of every batch that was computed.
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
    """Texts whose first id is their number, and the vectors that they must get."""
    lengths = np.random.default_rng(0).integers(1, 30, count)
    rows = [[number] * int(length) for number, length in enumerate(lengths)]
    return Encodings.from_lists(rows), np.stack([np.arange(count), lengths], axis=1).astype(np.float32)


def computed_by(*sessions: FakeSession) -> list[int]:
    """First ids of all texts that they computed, sorted."""
    return sorted(first for session in sessions for batch in session.seen for first in batch)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def values(fleet: Fleet, name: str) -> dict[str, float]:
    """A metric's value by device."""
    return {metric.device: metric.value() for metric in fleet.metrics() if metric.name == name}


def test_results_are_in_order_and_every_device_works() -> None:
    sessions = FakeSession(seconds=1e-5), FakeSession(seconds=1e-5)
    encodings, wanted = ragged(400)
    fleet = fleet_of(*sessions)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=64)
    np.testing.assert_array_equal(workers.compute(encodings), wanted)
    workers.close()
    assert all(session.runs > 10 and session.closed == 1 for session in sessions)
    assert computed_by(*sessions) == list(range(400))


def test_a_faster_device_gets_more(pool: ThreadPoolExecutor) -> None:
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
        until(lambda: len(fleet._waiting) == 1)  # the slow device is free all the while
        fast.gate.set()
        first.result(20)
        last.result(20)
        assert slow.runs == before


def test_batches_that_wait_overtake_to_a_slow_device_only_if_they_end_sooner_there(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.runtime.fleet.throughput.FORGOTTEN_AFTER", 1000.0)  # however slow this machine is
    slow, fast = FakeSession(), FakeSession()
    with fleet_of(slow, fast, slots=1) as fleet:
        for member, seconds in zip(fleet._members, (4.0, 1.0), strict=True):
            member.speed.begin(time.perf_counter())
            for _ in range(TRUSTED_AFTER + 1):  # the first is the cold one
                member.speed._mark = time.perf_counter() - seconds
                member.speed.end(time.perf_counter(), 0.0, 100, 1)
        slow.gate.clear()
        fast.gate.clear()
        futures = []
        for number in range(5):
            futures.append(pool.submit(fleet.run, one(number)))
            until(lambda: sum(m.running for m in fleet._members) + len(fleet._waiting) == len(futures))
            # At a quarter of the speed the slow one ends its first batch when the fast one ends its fourth.
            assert [member.running for member in fleet._members] == [int(number >= 3), 1]
        fast.gate.set()
        for number in (0, 1, 2, 4):
            futures[number].result(20)
        assert slow.runs == 1
        slow.gate.set()
        np.testing.assert_array_equal(futures[3].result(20), [[3, 4]])


def test_no_more_batches_than_slots_are_under_way(pool: ThreadPoolExecutor) -> None:
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
def test_a_device_lost_in_mid_run_loses_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    healthy = FakeSession(seconds=1e-5)
    failing = FakeSession(seconds=1e-5, fails=lambda run: error if run > 5 else None)
    encodings, wanted = ragged(600)
    fleet = fleet_of(failing, healthy)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=64)
    with caplog.at_level(logging.WARNING, "fletcher.runtime.fleet.fleet"):
        np.testing.assert_array_equal(workers.compute(encodings), wanted)
    assert [record.message for record in caplog.records] == ["device taken out"]
    assert computed_by(healthy, failing) == list(range(600))
    assert len(failing.seen) == 5
    assert values(fleet, "fletcher_gpu_in_service") == {"cuda:0": 0, "cuda:1": 1}
    assert values(fleet, "fletcher_gpu_outages_total") == {"cuda:0": 1, "cuda:1": 0}
    assert 1 <= values(fleet, "fletcher_gpu_failures_total")["cuda:0"] <= 2  # both slots may have been taken
    assert values(fleet, "fletcher_gpu_weight") == {"cuda:0": 0, "cuda:1": 1}
    assert sum(values(fleet, "fletcher_gpu_sequences_total").values()) == 600
    workers.close()


def test_where_no_device_is_left_the_error_says_what_happened_to_each(pool: ThreadPoolExecutor) -> None:
    def lost(number: int) -> FakeSession:
        return FakeSession(fails=lambda run: DeviceLostError(f"gpu {number} fell off the bus"))

    with (
        fleet_of(lost(0), lost(1)) as fleet,
        pytest.raises(DeviceLostError, match=r"cuda:0: .*gpu 0 fell off.*cuda:1: .*gpu 1 fell off"),
    ):
        fleet.run(one())


def test_batches_that_wait_are_told_when_the_last_device_is_lost(pool: ThreadPoolExecutor) -> None:
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


def test_a_batch_that_makes_every_device_fail_does_not_take_out_the_last() -> None:
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


def test_bad_input_is_the_callers_and_costs_no_device() -> None:
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
        assert lost.closed == 1  # its memory is needed
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
        assert opened[1].closed == 1  # the one that failed the check
        before = spare.runs
        fleet.run(one())
        assert (opened[2].runs, spare.runs) == (1, before)
    assert [record.message for record in caplog.records] == ["device taken out", "device back in service"]
    assert opened[2].closed == 1


def test_a_session_with_batches_under_way_is_not_closed_when_its_device_is_lost(pool: ThreadPoolExecutor) -> None:
    """Its other batch may be well on its way; its result counts."""
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
            found = original(batch, output)
            assert release.wait(20)
            return found

        lost.run = slow_first  # type: ignore[method-assign]
        first = pool.submit(fleet.run, one(1))
        until(lambda: lost.runs == 1)
        lost.run = original  # type: ignore[method-assign]
        fleet._members[1].tokens_in_progress += 10_000  # keeps the next batch off the other device
        np.testing.assert_array_equal(fleet.run(one(2)), [[2, 4]])
        fleet._members[1].tokens_in_progress -= 10_000
        assert not reopened.wait(0.02)
        assert lost.closed == 0
        release.set()
        np.testing.assert_array_equal(first.result(20), [[1, 4]])
        assert reopened.wait(20)
        assert lost.closed == 1


def test_a_closed_fleet_refuses_and_tries_no_device_again() -> None:
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
        assert len(calls) == 3  # the main thread stays where it is


def test_a_fleet_needs_devices_with_names_of_their_own() -> None:
    for devices in (
        [],
        [FleetDevice("a", FakeSession()), FleetDevice("a", FakeSession())],
        [FleetDevice("a", FakeSession(), 0)],
    ):
        with pytest.raises(InputError, match="different names and at least one slot each"):
            Fleet(devices)


def test_many_devices_that_come_and_go_lose_and_double_nothing() -> None:
    """Hundreds of batches while devices fail and are opened again all the time."""

    def flaky() -> FakeSession:
        return FakeSession(seconds=1e-6, fails=lambda run: RuntimeError("flaky") if run % 23 == 0 else None)

    devices = [FleetDevice(f"cuda:{index}", flaky(), open=flaky) for index in range(3)]
    encodings, wanted = ragged(3000)
    fleet = Fleet([*devices, FleetDevice("steady", FakeSession(seconds=1e-5))], first_retry=0.001, last_retry=0.001)
    workers = Workers(fleet, OUTPUTS, name="fake", count=fleet.slots, token_budget=32)
    np.testing.assert_array_equal(workers.compute(encodings), wanted)
    assert sum(values(fleet, "fletcher_gpu_sequences_total").values()) == 3000
    assert sum(values(fleet, "fletcher_gpu_tokens_total").values()) == encodings.num_tokens
    assert sum(values(fleet, "fletcher_gpu_outages_total").values()) > 3
    workers.close()
    assert all(member.running == member.tokens_in_progress == 0 for member in fleet._members)


def test_memory_that_a_lost_device_does_not_tell_is_no_number() -> None:
    def lost() -> float:
        raise ProviderError("the driver does not answer")

    devices = [
        FleetDevice("cuda:0", FakeSession(), memory=lost),
        FleetDevice("cuda:1", FakeSession(), memory=lambda: 7),
    ]
    with Fleet(devices) as fleet:
        found = values(fleet, "fletcher_vram_allocated_bytes")
        assert np.isnan(found["cuda:0"])
        assert found["cuda:1"] == 7


def test_what_sessions_count_by_themselves_is_shown_and_outlives_them() -> None:
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


def test_an_encoder_on_a_fleet_gives_the_same_vectors_and_its_devices_counts(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    variant = artifact.variant()
    tokenizer = Tokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
    texts = ["one", "another text", "the third"]
    with Encoder.load(tiny_artifact, provider="mlas") as plain:
        wanted = plain.embed(texts).vectors
        assert plain.metrics().devices == ()
    fleet = fleet_of(open_session(artifact, variant), open_session(artifact, variant))
    workers = Workers(fleet, variant.outputs, name="fleet", count=2, token_budget=64)
    loaded = Loaded(variant, "mlas", tokenizer, workers, None, "for the test", variant.tolerance)
    with Encoder(artifact, loaded) as encoder:
        np.testing.assert_array_equal(encoder.embed(texts).vectors, wanted)
        assert encoder.require_canary().passed
        counted = {metric.name: metric.value() for metric in encoder.metrics().devices if metric.device == "cuda:0"}
        assert counted["fletcher_gpu_sequences_total"] > 3
        assert encoder.info.provider == "MLAS"


def test_throughput_is_that_of_overlapping_batches_and_leaves_the_first_one_out() -> None:
    speed = Throughput()
    speed.begin(0.0)
    speed.end(9.0, 0.0, 100, 10)  # loads kernels
    for second in range(10, 10 + TRUSTED_AFTER):
        assert speed.tokens is None
        speed.end(float(second), 0.0, 100, 10)  # began with the others, and ended a second after the last
    assert speed.tokens == pytest.approx(100)
    now = 9.0 + TRUSTED_AFTER
    assert not speed.is_old(now + 0.5)
    speed.begin(now + 0.5)  # half a second of idleness does not count
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
    speed.end(later + 1, later, 50, 1)  # one batch is enough of a session that is warm
    assert speed.tokens == pytest.approx(50)
