"""Bytes of bodies and answers: what is held, given back and refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fletcher.runtime.errors import OverloadedError
from fletcher.serve.byte_budget import ByteBudget
from fletcher.serve.errors import TooLargeError


def test_held_bytes_are_given_back() -> None:
    budget = ByteBudget(100)
    request = SimpleNamespace(held=0)
    budget.hold(60, request)
    budget.hold(40, request)
    assert (budget.used, request.held) == (100, 100)
    budget.hold(-100, request)
    assert (budget.used, budget.peak, request.held) == (0, 100, 0)


def test_a_request_above_the_limit_is_too_large() -> None:
    budget = ByteBudget(100)
    budget.hold(60)
    with pytest.raises(TooLargeError, match="several requests"):
        budget.hold(41, SimpleNamespace(held=60))
    assert budget.used == 60


def test_a_request_that_others_leave_no_room_for_may_come_again() -> None:
    budget = ByteBudget(100)
    budget.hold(60)
    with pytest.raises(OverloadedError) as refused:
        budget.hold(41)
    assert refused.value.retry_after
    budget.hold(-60)
    budget.hold(41)


def test_processes_share_the_limit_and_it_only_falls() -> None:
    budget = ByteBudget(100, shares=2)
    budget.lower(60)
    budget.lower(90)
    assert budget.limit == 30
