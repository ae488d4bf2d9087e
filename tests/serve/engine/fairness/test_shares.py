"""`Shares`: expected waits and limits, compared with small cases that were calculated by hand."""

from __future__ import annotations

import pytest

from fletcher.serve.engine.fairness.shares import Shares
from fletcher.serve.engine.terms import Flow, Priority, Terms

#: Tokens of a full batch in these cases.
TURN = 1000


def shares(max_tokens: int = 1 << 20) -> Shares:
    return Shares(max_tokens, TURN)


def add(queue: Shares, client: str, tokens: int, priority: Priority = "normal") -> Flow:
    """Add a request of a client."""
    flow = queue.enter(Terms(priority, client))
    queue.charge(flow, 0, tokens)
    return flow


@pytest.mark.parametrize(
    ("waiting", "newcomer", "before"),
    [
        # One turn of the other client, although it has much more.
        ([("a", 500_000, "normal")], ("b", "normal"), 1000),
        # A client with little waiting gets less than a turn.
        ([("a", 500_000, "normal"), ("c", 300, "normal")], ("b", "normal"), 1300),
        # All of the client's own tokens, and as many of the other one, and a turn of it.
        ([("a", 500_000, "normal"), ("b", 3000, "normal")], ("b", "normal"), 3000 + 3000 + 1000),
        # The other client has less than its share.
        ([("a", 500, "normal"), ("b", 3000, "normal")], ("b", "normal"), 3500),
        # A bulk client has a weight of 1 beside 4.
        ([("a", 500_000, "bulk")], ("b", "normal"), 250),
        ([("a", 500_000, "bulk"), ("b", 4000, "normal")], ("b", "normal"), 4000 + 1000 + 250),
        # An interactive client has a weight of 16 beside 1; its turn is not larger than a batch.
        ([("a", 500_000, "interactive")], ("b", "bulk"), 1000),
        ([("a", 500_000, "interactive"), ("b", 100, "bulk")], ("b", "bulk"), 100 + 1600 + 1000),
        # The client's own requests in another class are those of another flow.
        ([("b", 500_000, "bulk")], ("b", "interactive"), 1000 / 16),
    ],
)
def test_a_newcomer_waits_for_its_own_requests_and_its_turn(
    waiting: list[tuple[str, int, Priority]], newcomer: tuple[str, Priority], before: float
) -> None:
    queue = shares()
    for client, tokens, priority in waiting:
        add(queue, client, tokens, priority)
    client, priority = newcomer
    assert queue.tokens_before(queue.enter(Terms(priority, client))) == pytest.approx(before)


def test_a_quarter_of_the_queue_is_free_for_clients_that_have_nothing_waiting() -> None:
    queue = shares(100_000)
    flow = queue.enter(Terms(client="a"))
    admitted = 0
    while queue.refusal(flow, 1000) is None:
        queue.charge(queue.enter(Terms(client="a")), 0, 1000)
        admitted += 1
    assert admitted == 75
    reason = queue.refusal(flow, 1000)
    assert reason is not None and "the limit is 75000 for a client whose requests wait" in reason
    for number in range(25):
        newcomer = queue.enter(Terms(client=f"new {number}"))
        assert queue.refusal(newcomer, 1000) is None
        queue.charge(newcomer, 0, 1000)
    reason = queue.refusal(queue.enter(Terms(client="last")), 1000)
    assert reason is not None and reason.endswith("the limit is 100000")


def test_a_large_request_counts_for_a_thirty_second_part_of_the_queue() -> None:
    queue = shares(1 << 20)
    for number in range(10):
        flow = queue.enter(Terms("bulk", f"client {number}"))
        assert queue.refusal(flow, 4_000_000) is None
        queue.charge(flow, 0, 4_000_000)
    assert queue.counted == 10 * (1 << 15)
    queue.charge(flow, 4_000_000, 1000)  # the last rows count as they are
    assert queue.counted == 9 * (1 << 15) + 1000


def test_a_request_of_any_size_is_admitted_if_no_token_waits() -> None:
    queue = shares(10)
    flow = queue.enter(Terms())
    assert queue.refusal(flow, 1_000_000) is None
    queue.charge(flow, 0, 5)
    assert queue.refusal(flow, 3) is not None


def test_clients_without_open_requests_are_forgotten() -> None:
    queue = shares()
    first, second = queue.enter(Terms(client="a")), queue.enter(Terms("bulk", "a"))
    assert first.client is second.client
    again = queue.enter(Terms(client="a"))
    assert again is first
    for flow in (first, second, again):
        queue.leave(flow)
    assert not queue._flows and not queue._clients
