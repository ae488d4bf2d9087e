"""The address book of Flight servers."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

from fletcher.serve.cluster_ray.flight import LEASE_SECONDS, AddressBook


def test_addresses_are_listed_while_they_are_renewed() -> None:
    now = [0.0]
    book = AddressBook(lambda: now[0])
    assert book.renew("m", "grpc://b:1") == ["grpc://b:1"]
    assert book.renew("m", "grpc://a:1") == ["grpc://a:1", "grpc://b:1"]
    book.renew("other", "grpc://c:1")
    now[0] = LEASE_SECONDS - 0.1
    book.renew("m", "grpc://a:1")
    now[0] = LEASE_SECONDS + 0.1
    assert book.addresses("m") == ["grpc://a:1"]
    book.leave("m", "grpc://a:1")
    assert book.addresses("m") == []
    assert book.addresses("other") == []
