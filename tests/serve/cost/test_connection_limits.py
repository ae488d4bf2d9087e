"""Numbers of connections: of all clients, and of one address."""

from __future__ import annotations

import resource

from fletcher.serve.connection_limits import ConnectionLimits


def test_no_more_than_the_most_connections_enter() -> None:
    limits = ConnectionLimits(3, 3)
    assert [limits.enter((f"10.0.0.{number}", 1)) for number in range(4)] == [True, True, True, False]
    limits.leave(("10.0.0.0", 1))
    assert limits.enter(("10.0.0.9", 1))


def test_one_address_cannot_take_all_connections() -> None:
    limits = ConnectionLimits(4)
    assert [limits.enter(("10.0.0.1", port)) for port in range(3)] == [True, True, False]
    assert limits.enter(("10.0.0.2", 1))
    limits.leave(("10.0.0.1", 0))
    assert limits.enter(("10.0.0.1", 5))


def test_connections_of_a_unix_socket_have_no_address() -> None:
    limits = ConnectionLimits(4)
    assert [limits.enter(None) for _ in range(5)] == [True] * 4 + [False]


def test_the_default_leaves_descriptors_for_other_files() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert files // 2 <= ConnectionLimits().most < files
