"""Work on threads of its own: its future has its error; in the background it is logged."""

from __future__ import annotations

import threading

import pytest

from fletcher.serve.models.loads import in_background, on_thread

SECONDS = 10.0


def broken() -> None:
    raise ValueError("the file has no end")


def test_the_error_of_work_is_in_its_future() -> None:
    with pytest.raises(ValueError, match="the file has no end"):
        on_thread(broken, "test-load").result(SECONDS)


def test_the_error_of_work_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    in_background(broken, "test-load")
    for thread in threading.enumerate():
        if thread.name == "test-load":
            thread.join(SECONDS)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None and str(record.exc_info[1]) == "the file has no end"
