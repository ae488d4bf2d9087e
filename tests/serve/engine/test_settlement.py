"""End of a request: it ends once, for any reason, and releases its tokens and memory."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from fletcher.runtime.errors import DeadlineError, FletcherError, ProviderError
from fletcher.serve.engine.admission import Admission
from fletcher.serve.engine.fairness.drain_rate import DrainRate
from fletcher.serve.engine.fairness.shares import Shares
from fletcher.serve.engine.open_request import OpenRequest
from fletcher.serve.engine.price import Price
from fletcher.serve.engine.terms import USUAL
from fletcher.serve.observe.metrics import Metrics

from ..fake_encoder import request_for


@pytest.fixture
def admission() -> Admission:
    return Admission(shares=Shares(100, 64), max_wait=1.0, max_memory=1000, metrics=Metrics(), rate=DrainRate())


def admit(admission: Admission, text: str = "ab") -> OpenRequest:
    return admission.admit(request_for([text]), Price(2, 0, 1, 5, 72), key=text)


def cancelled(admission: Admission) -> float:
    text = admission._metrics.exposition().decode()
    line = next(line for line in text.splitlines() if line.startswith("fletcher_requests_cancelled_total"))
    return float(line.split()[1])


@pytest.mark.parametrize("error", [None, DeadlineError("late"), RuntimeError("a third party's failure")])
def test_the_tokens_and_memory_of_a_request_are_released(admission: Admission, error: Exception | None) -> None:
    request = admit(admission)
    assert (admission.count, admission.tokens, admission.memory) == (1, 5, 72)
    admission.settle(request, "answer", error)
    assert (admission.count, admission.tokens, admission.memory) == (0, 0, 0)
    assert admission.joinable == {}
    assert admission.wait_until_drained(0)


def test_only_the_first_answer_counts(admission: Admission) -> None:
    request = admit(admission)
    admission.settle(request, "first")
    admission.settle(request, error=DeadlineError("second"))
    admission.settle(request, "third")
    assert request.futures[0].result(0) == "first"
    assert (admission.count, admission.tokens, admission.memory) == (0, 0, 0)


def test_every_caller_is_answered_and_cancelled_ones_are_counted(admission: Admission) -> None:
    request = admit(admission)
    second, third = (admission.join("ab", USUAL, None) for _ in range(2))
    assert second is not None and third is not None
    second.cancel()
    admission.settle(request, "answer")
    assert [future.result(0) for future in (request.futures[0], third)] == ["answer", "answer"]
    assert cancelled(admission) == 1
    assert admission.join("ab", USUAL, None) is None  # the request has ended


def test_an_error_of_a_third_party_becomes_a_provider_error(admission: Admission) -> None:
    request = admit(admission)
    cause = RuntimeError("a third party's failure")
    admission.settle(request, error=cause)
    with pytest.raises(ProviderError, match="RuntimeError: a third party's failure") as caught:
        request.futures[0].result(0)
    assert caught.value.__cause__ is cause


def test_a_callback_can_submit_another_request(admission: Admission) -> None:
    request = admit(admission)
    again: list[OpenRequest] = []

    def ask(done: Future[Any]) -> None:
        again.append(admit(admission))

    request.futures[0].add_done_callback(ask)
    admission.settle(request, "answer")
    assert (admission.count, admission.tokens) == (1, 5)
    admission.settle_all(DeadlineError("the end"))
    assert admission.wait_until_drained(0)
    with pytest.raises(FletcherError, match="the end"):
        again[0].futures[0].result(0)
