"""Signals of a server's process."""

from __future__ import annotations

import signal

import pytest

from fletcher.serve.signals import hangups, stop_signals


@pytest.mark.parametrize(
    ("events", "number"), [(stop_signals, signal.SIGTERM), (stop_signals, signal.SIGINT), (hangups, signal.SIGHUP)]
)
@pytest.mark.timeout(20)
def test_a_signal_inside_of_the_wait_for_it_is_noticed(events: object, number: signal.Signals) -> None:
    """The handler runs on the main thread, which has the event's lock for an instant of every wait."""
    assert callable(events)
    with events() as event:
        with event._cond:
            signal.raise_signal(number)
        assert event.wait(10)
