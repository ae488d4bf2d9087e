"""Count of limits: rates with a burst, limits a day, open requests, several processes, and Redis."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.access.limits.ledger import StoreRule, TableLedger
from fletcher.serve.access.limits.plan import Plan
from fletcher.serve.access.limits.quota import Quota, Rate, read_quota
from fletcher.serve.errors import LimitStoreError

if TYPE_CHECKING:
    from fletcher.serve.access.limits.redis_ledger import RedisLedger

#: 2026-11-30T23:59:00Z.
EVENING = 1796083140.0


class Clocks:
    """Clocks that tests set.

    Attributes:
        seconds: seconds since the start.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic_ns(self) -> int:
        return 10**15 + round(self.seconds * 1e9)

    def time(self) -> float:
        return EVENING + self.seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def ledger(clocks: Clocks) -> TableLedger:
    return TableLedger(clocks=clocks)


def plan(*limits: str) -> Plan:
    return Plan.of(read_quota(limits))


def test_a_burst_and_then_the_rate(ledger: TableLedger, clocks: Clocks) -> None:
    limits = plan("requests=2/s:3")
    assert [ledger.charge("ann", limits, (1, 0, 0)).refused for _ in range(4)] == ["", "", "", "requests"]
    assert ledger.charge("ann", limits, (1, 0, 0)).retry == pytest.approx(0.5)  # two a second
    clocks.seconds = 0.49
    assert ledger.charge("ann", limits, (1, 0, 0)).refused
    clocks.seconds = 0.5
    assert not ledger.charge("ann", limits, (1, 0, 0)).refused
    assert ledger.charge("ann", limits, (1, 0, 0)).refused
    clocks.seconds = 100.0  # the bucket holds the burst, and no more
    assert [ledger.charge("ann", limits, (1, 0, 0)).refused for _ in range(4)] == ["", "", "", "requests"]


def test_the_balance_says_what_is_left_and_when_all_is_back(ledger: TableLedger) -> None:
    balance = ledger.charge("ann", plan("requests=2/s:10", "tokens=100/s:500", "tokens=1000/day"), (1, 200, 0))
    assert balance.plan.names == ("requests", "tokens", "tokens-day")
    assert balance.left == [(9, 0.5), (300, 2.0), (800, 60.0)]


def test_one_limit_that_refuses_leaves_the_others_untouched(ledger: TableLedger) -> None:
    limits = plan("requests=1/s:2", "tokens=10/s:10")
    assert ledger.charge("ann", limits, (1, 10, 0)).refused == ""
    for _ in range(5):
        assert ledger.charge("ann", limits, (1, 10, 0)).refused == "tokens"
    assert ledger.charge("ann", limits, (1, 0, 0)).refused == ""  # the second request of the burst was not charged


def test_an_amount_above_the_burst_needs_a_full_bucket_and_leaves_a_debt(ledger: TableLedger, clocks: Clocks) -> None:
    limits = plan("tokens=10/s:20")
    assert not ledger.charge("ann", limits, (0, 100, 0)).refused
    refused = ledger.charge("ann", limits, (0, 1, 0))
    assert (refused.refused, refused.retry) == ("tokens", 8.1)  # 100 - 20 + 1 tokens, ten a second
    clocks.seconds = 8.1
    assert not ledger.charge("ann", limits, (0, 1, 0)).refused


def test_what_was_estimated_too_high_is_given_back(ledger: TableLedger) -> None:
    limits = plan("tokens=10/s:100", "tokens=200/day")
    ledger.charge("ann", limits, (0, 100, 0))
    assert ledger.charge("ann", limits, (0, 60, 0)).refused == "tokens"
    ledger.charge("ann", limits, (0, -80, 0), force=True)
    assert [amount for amount, _ in ledger.charge("ann", limits, (0, 60, 0)).left] == [20, 120]


def test_a_day_ends_at_midnight(ledger: TableLedger, clocks: Clocks) -> None:
    limits = plan("requests=3/day")
    assert [ledger.charge("ann", limits, (1, 0, 0)).refused for _ in range(4)] == ["", "", "", "requests-day"]
    assert ledger.charge("ann", limits, (1, 0, 0)).retry == pytest.approx(60.0)
    clocks.seconds = 60.0
    assert not ledger.charge("ann", limits, (1, 0, 0)).refused


def test_open_requests(ledger: TableLedger) -> None:
    limits = plan("in_flight=2")
    assert [ledger.charge("ann", limits, (1, 0, 0), opens=1).refused for _ in range(3)] == ["", "", "in_flight"]
    ledger.charge("ann", limits, (0, 0, 0), opens=-1, force=True)
    assert [ledger.charge("ann", limits, (1, 0, 0), opens=1).refused for _ in range(2)] == ["", "in_flight"]


def test_clients_have_limits_of_their_own_also_if_there_are_many(ledger: TableLedger, clocks: Clocks) -> None:
    limits = plan("requests=1/s:1")
    assert not ledger.charge("ann", limits, (1, 0, 0)).refused
    for number in range(2000):
        assert not ledger.charge(f"address {number}", limits, (1, 0, 0)).refused
    assert ledger.charge("ann", limits, (1, 0, 0)).refused
    clocks.seconds = 10.0
    for number in range(20_000):  # more than the table has rows: those whose buckets are full make room
        clocks.seconds += 0.01
        ledger.charge(f"other {number}", limits, (1, 0, 0))


def test_processes_share_one_limit(tmp_path: Path) -> None:
    begun = time.monotonic()
    TableLedger(tmp_path / "limits", 0, 4)
    children = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hammer.py")), str(tmp_path / "limits"), str(number), "1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2, 3)
    ]
    total = sum(int(child.communicate(timeout=60)[0]) for child in children)
    assert 50 < total <= 50 + 100 * (time.monotonic() - begun) + 1


def test_open_requests_of_a_process_that_ended_are_forgotten(tmp_path: Path) -> None:
    limits = plan("in_flight=2")
    ours, other = TableLedger(tmp_path / "limits", 0, 2), TableLedger(tmp_path / "limits", 1, 2)
    for ledger in (ours, other):
        assert not ledger.charge("ann", limits, (1, 0, 0), opens=1).refused
    assert ours.charge("ann", limits, (1, 0, 0), opens=1).refused == "in_flight"
    TableLedger(tmp_path / "limits", 1, 2)  # the process was started again
    assert ours.charge("ann", limits, (1, 0, 0), opens=1).refused == ""


def test_what_was_used_on_an_earlier_day_does_not_count_in_a_refusal(ledger: TableLedger, clocks: Clocks) -> None:
    limits = plan("requests=0.001/s:1", "requests=5/day")
    assert ledger.charge("ann", limits, (1, 0, 0)).refused == ""
    clocks.seconds = 60.0  # midnight
    refused = ledger.charge("ann", limits, (1, 0, 0))
    assert refused.refused == "requests"
    assert [amount for amount, _ in refused.left] == [0, 5]


def test_a_charge_takes_at_most_25_microseconds(tmp_path: Path) -> None:
    limits = plan(
        "requests=1000000/s", "tokens=100000000/s", "bytes=1000000000/s", "requests=1000000000/day", "in_flight=9"
    )
    ledger, best = TableLedger(tmp_path / "limits", 0, 13), float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(1000):  # the three charges of a request: at its begin, of its tokens, at its end
            ledger.charge("ann", limits, (1, 0, 100), opens=1)
            ledger.charge("ann", limits, (0, 10, 0))
            ledger.charge("ann", limits, (0, 1, 0), opens=-1, force=True)
        best = min(best, (time.process_time() - begun) / 1000)
    assert best < 25e-6


@pytest.mark.parametrize(
    ("texts", "quota"),
    [
        ((), Quota()),
        (("requests=10/s",), Quota(requests=Rate(second=10))),
        (("tokens=0.5/s:7", "tokens=9/day"), Quota(tokens=Rate(second=0.5, burst=7, day=9))),
        (("bytes=1/day", "in_flight=3"), Quota(bytes=Rate(day=1), in_flight=3)),
    ],
)
def test_limits_in_words(texts: tuple[str, ...], quota: Quota) -> None:
    assert read_quota(texts) == quota


@pytest.mark.parametrize(
    "text", ["", "requests", "words=1/s", "requests=1/m", "requests=0/s", "in_flight=0", "tokens=1.5/day"]
)
def test_wrong_limits_are_named(text: str) -> None:
    with pytest.raises(InputError, match="limit"):
        read_quota([text])


# Redis ----------------------------------------------------------------------------------------------------------------


#: A port on which nothing can listen.
_CLOSED = "redis://127.0.0.1:1/0"


def _in_redis(url: str, down: StoreRule = "alone") -> RedisLedger:
    from fletcher.serve.access.limits.redis_ledger import RedisLedger

    return RedisLedger(url, TableLedger(), down)


def test_servers_share_a_limit_in_redis(redis_url: str) -> None:
    ours, other, limits = _in_redis(redis_url), _in_redis(redis_url), plan("requests=0.01/s:3", "tokens=100/day")
    begun = time.monotonic()
    answers = [ledger.charge("shared", limits, (1, 10, 0)) for ledger in (ours, other, ours, other)]
    assert [answer.refused for answer in answers] == ["", "", "", "requests"]
    assert 99.9 - (time.monotonic() - begun) < answers[-1].retry <= 100
    assert limits.names == ("requests", "tokens-day")
    assert [amount for amount, _ in answers[2].left] == [0, 70]
    assert ours.charge("shared", limits, (0, 80, 0)).refused == "tokens-day"
    other.charge("shared", limits, (0, -30, 0), force=True)
    assert ours.charge("shared", limits, (0, 80, 0)).refused == ""


def test_redis_and_the_table_agree(redis_url: str) -> None:
    """The same charges at the same time have the same results: refusals, and what is left."""
    limits = plan("requests=0.001/s:5", "tokens=0.01/s:40", "bytes=300/day", "requests=100/day")
    charges = [(1, 7, 50), (1, 30, 0), (1, 10, 90), (0, 60, 1), (1, 0, 200), (1, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0)]
    table, shared = TableLedger(), _in_redis(redis_url)
    for amounts in charges:
        here, there = (ledger.charge("twin", limits, amounts) for ledger in (table, shared))
        assert here.refused == there.refused
        assert [amount for amount, _ in here.left] == [amount for amount, _ in there.left]
        assert here.retry == pytest.approx(there.retry, rel=0.01, abs=1.5)


@pytest.mark.parametrize("down", ["alone", "refuse"])
def test_a_refusal_gives_the_place_of_the_request_back(down: StoreRule) -> None:
    ledger, limits = _in_redis(_CLOSED, down), plan("requests=0.001/s:1", "in_flight=2")
    for number in range(4):
        if down == "refuse":
            with pytest.raises(LimitStoreError):
                ledger.charge("ann", limits, (1, 0, 0), opens=1)
        else:
            assert ledger.charge("ann", limits, (1, 0, 0), opens=1).refused == ("" if number == 0 else "requests")
    assert ledger.charge("ann", plan("in_flight=2"), (0, 0, 0), opens=1, force=True).refused == ""


def test_a_request_that_was_admitted_ends_also_without_redis() -> None:
    ledger, limits = _in_redis(_CLOSED, "refuse"), plan("tokens=1/s:100", "in_flight=1")
    ledger.charge("ann", limits, (0, 5, 0), opens=-1, force=True)
    assert (ledger.failures, ledger.missed) == (1, 1)


def test_redis_counts_again_when_it_answers_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.access.limits.redis_ledger.ALONE_SECONDS", 0.0)
    ledger, limits = _in_redis(redis_url), plan("requests=0.001/s:3")
    assert ledger.charge("back", limits, (1, 0, 0)).refused == ""
    script = ledger._script
    monkeypatch.setattr(ledger, "_script", _in_redis(_CLOSED)._script)
    assert [ledger.charge("back", limits, (1, 0, 0)).refused for _ in range(4)] == ["", "", "", "requests"]  # alone
    monkeypatch.setattr(ledger, "_script", script)
    assert [ledger.charge("back", limits, (1, 0, 0)).refused for _ in range(3)] == ["", "", "requests"]
    assert (ledger.failures, ledger.missed) == (4, 4)


def test_a_server_counts_alone_while_redis_does_not_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ledger = _in_redis(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        limits = plan("requests=0.01/s:2", "in_flight=9")
        begun = time.monotonic()
        assert [ledger.charge("ann", limits, (1, 0, 0), opens=1).refused for _ in range(3)] == ["", "", "requests"]
        assert time.monotonic() - begun < 3


def test_a_charge_of_what_has_no_limit_does_not_ask_redis() -> None:
    # Nothing listens there, so each question would be a failure.
    ledger, limits = _in_redis(_CLOSED, "refuse"), plan("tokens=1/s:100", "in_flight=1")
    assert not ledger.charge("c", limits, (1, 0, 5000), opens=1).refused
    assert ledger.charge("c", limits, (1, 0, 5000), opens=1).refused == "in_flight"
    assert not ledger.charge("c", limits, (0, 0, 5000), opens=-1, force=True).refused
    assert ledger.failures == 0
    with pytest.raises(LimitStoreError):
        ledger.charge("c", limits, (0, 1, 0))
    assert ledger.failures == 1
