"""Batch size, backoff, and the metrics of Longbow that pause a job."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import InputError, ServiceError
from fletcher.serve.longbow.job.capacity import CapacityWatch, read_metrics
from fletcher.serve.longbow.wire.connection import Readiness
from fletcher.serve.longbow.wire.pacing import Backoff, BatchSizer

from ...doubles.longbow import LongbowDouble


def test_batches_grow_while_they_are_quick_and_shrink_when_they_are_slow() -> None:
    sizer = BatchSizer(1000)
    for _ in range(40):
        sizer.acknowledged(sizer.rows(100), 0.01)
    assert sizer.rows(100) == 10_000  # upper limit of Longbow's best range
    assert sizer.rows(1e6) == 4  # the size in bytes is limited, too
    for _ in range(20):
        sizer.acknowledged(sizer.rows(100), 3.0)
    assert sizer.rows(100) == 64
    assert sizer.rows(1e9) == 1


def test_backoff_doubles_up_to_its_bound_with_jitter() -> None:
    backoff = Backoff(first=0.1, longest=2.0)
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    waits = [backoff.fail() for _ in bounds]
    for wait, bound in zip(waits, bounds, strict=True):
        assert bound / 10 <= wait <= bound
    backoff.succeed()
    assert backoff.fail() <= 0.1


def test_metrics_are_read(longbow: LongbowDouble) -> None:
    longbow.store.memory, longbow.store.max_memory = 500, 1000
    with CapacityWatch(longbow.metrics_url) as watch:
        assert watch.last is not None
        assert watch.last.memory_share == 0.5
        assert watch.hold() == ""
        assert watch.status() == "Longbow's memory 50% full"
        longbow.store.memory = 900
        watch.look()
        assert watch.hold().startswith("its memory is 90% full")


def test_rows_that_wait_for_the_index_are_reported_and_pause_the_job() -> None:
    waiting = Readiness("BUSY", "global index queue has 250 jobs", 0).to_index
    assert (waiting, Readiness("READY", "", 7).to_index) == (250, 0)
    with CapacityWatch(None, lambda: waiting) as watch:
        watch.ask()
        assert watch.status() == "250 batches to index"
        assert watch.hold() == "250 batches wait for its index"

    def away() -> int:
        raise ServiceError("away")

    with CapacityWatch(None, away) as watch:
        watch.ask()
        assert (watch.status(), watch.hold()) == ("", "")


def test_metrics_with_labels_are_summed_and_others_ignored() -> None:
    page = "# longbow_ingestion_lag_count 9\nnoise 1e3\n"
    page += 'longbow_index_queue_depth{a="1"} 2\nlongbow_index_queue_depth{a="2"} 3\n'
    capacity = read_metrics(page)
    assert (capacity.index_queue, capacity.lag_rows, capacity.memory_share) == (5, None, None)
    watch = CapacityWatch(None)
    watch.last = capacity
    assert watch.status() == "5 batches to index"


def test_missing_metrics() -> None:
    with CapacityWatch("http://127.0.0.1:9/metrics") as watch:
        assert watch.problem is not None
        assert watch.hold() == ""
    with pytest.raises(InputError, match="must be like http://HOST:9090/metrics"):
        CapacityWatch("127.0.0.1:9090")
