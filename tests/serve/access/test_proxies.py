"""Address of a client behind proxies, from the headers of RFC 7239 and of X-Forwarded-For."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.access.proxies import TrustedProxies

TRUSTED = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("10.1.2.3", [b"203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", [b"203.0.113.7, 10.9.9.9"], "203.0.113.7"),  # two proxies
        ("10.1.2.3", [b"198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # the client has invented the first one
        ("10.1.2.3", [b"127.0.0.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.1.2.3", [b"198.51.100.1", b"203.0.113.7"], "203.0.113.7"),  # two lines are one list
        ("10.1.2.3", [b"10.0.0.1, 10.0.0.2"], "10.0.0.1"),  # a client inside the network
        ("10.1.2.3", [b"203.0.113.7:4711"], "203.0.113.7"),
        ("10.1.2.3", [b"[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.1.2.3", [b"2001:db8::1"], "2001:db8::1"),
        ("10.1.2.3", [b"unknown"], "10.1.2.3"),
        ("10.1.2.3", [b"203.0.113.7, unknown"], "10.1.2.3"),
        ("10.1.2.3", [b"fe80::1%eth0"], "10.1.2.3"),
        ("10.1.2.3", [b"\xff\xfe"], "10.1.2.3"),
        ("10.1.2.3", [b", ,"], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("::ffff:10.1.2.3", [b"203.0.113.7"], "203.0.113.7"),
        ("192.0.2.1", [b"203.0.113.7"], "203.0.113.7"),
        ("fd00::5", [b"203.0.113.7"], "203.0.113.7"),
        ("192.0.2.2", [b"203.0.113.7"], "192.0.2.2"),  # not a trusted proxy
        ("127.0.0.1", [b"203.0.113.7"], "127.0.0.1"),
        (None, [b"203.0.113.7"], None),
        ("nonsense", [b"203.0.113.7"], "nonsense"),
    ],
)
def test_x_forwarded_for(peer: str | None, header: list[bytes], client: str | None) -> None:
    assert TRUSTED.client(peer, header, []) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [  # examples of RFC 7239, sections 4 to 6
        (b"for=192.0.2.43", "192.0.2.43"),
        (b'For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        (b"for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        (b'for="_gazonk"', "10.1.2.3"),
        (b"for=unknown", "10.1.2.3"),
        (b"proto=http", "10.1.2.3"),
    ],
)
def test_forwarded(header: bytes, client: str) -> None:
    assert TRUSTED.client("10.1.2.3", [], [header]) == client


def test_headers_that_disagree_are_not_believed() -> None:
    """The proxy has written only one of them; the other one is the client's invention."""
    assert TRUSTED.client("10.1.2.3", [b"203.0.113.7"], [b"for=198.51.100.1"]) == "10.1.2.3"
    assert TRUSTED.client("10.1.2.3", [b"203.0.113.7"], [b"for=203.0.113.7"]) == "203.0.113.7"


def test_the_unix_socket_is_trusted_by_its_name() -> None:
    assert TrustedProxies(["unix"]).client(None, [b"203.0.113.7"], []) == "203.0.113.7"
    assert TrustedProxies(["unix"]).client("10.1.2.3", [b"203.0.113.7"], []) == "10.1.2.3"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"'10\.0\.0' is not a network"):
        TrustedProxies(["10.0.0"])
