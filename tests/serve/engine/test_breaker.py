"""Circuit breaker, with a clock that the test sets."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import OverloadedError
from fletcher.serve.engine.breaker import Breaker


def test_the_breaker_opens_admits_one_request_and_closes() -> None:
    now = 0.0
    breaker = Breaker(failures=3, open_seconds=5.0, clock=lambda: now)
    for _ in range(2):
        breaker.fail()
    breaker.check("Longbow")
    breaker.fail()
    with pytest.raises(OverloadedError, match=r"failed 3 times in a row; try again in 5\.0 s") as refusal:
        breaker.check("Longbow")
    assert refusal.value.retry_after == 5.0
    now = 5.1
    breaker.check("Longbow")
    breaker.fail()
    assert breaker.is_open
    breaker.succeed()
    assert not breaker.is_open
