"""Tables of what was worked out for keys and tokens: expired entries go, and the number of entries is bounded."""

from __future__ import annotations

import math
import time

from fletcher.serve.access.room import FEW, MOST, make_room


def test_expired_entries_go() -> None:
    now = time.time()
    table = {number: now + (60 if number % 2 else -60) for number in range(1000)}
    assert make_room(table, lambda end: end) == 1000
    assert sorted(table) == list(range(1, 1000, 2))


def test_a_table_of_few_entries_is_seldom_looked_through() -> None:
    table = {1: math.inf}
    assert make_room(table, lambda end: end) == FEW
    assert table == {1: math.inf}


def test_too_many_entries_that_have_not_expired_all_go() -> None:
    table = dict.fromkeys(range(MOST), math.inf)
    assert make_room(table, lambda end: end) == FEW
    assert not table
    table = dict.fromkeys(range(MOST - 1), math.inf)
    assert make_room(table, lambda end: end) == MOST
    assert len(table) == MOST - 1
