"""The address book of Flight servers."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow.flight as fl

from fletcher.serve.access.addresses import HostPort
from fletcher.serve.cluster_ray.flight import LEASE_SECONDS, AddressBook, ClusterFlight
from fletcher.serve.server_options import ServerOptions
from fletcher.serve.surroundings import Surroundings

from ..fake_encoder import FakeEncoder


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


def test_a_flight_server_names_itself_first_and_all_others(fake_encoder: FakeEncoder) -> None:
    surroundings = Surroundings.open(ServerOptions(flight="127.0.0.1:0"))
    models = surroundings.open_models(fake_encoder)
    flight = surroundings.make_flight(ClusterFlight, models, HostPort("127.0.0.1", 0))
    try:
        assert places(flight.url) == [flight.url]  # before it is registered
        flight.advertised = "grpc://node-b:8815"
        flight.registration = SimpleNamespace(addresses=["grpc://node-a:8815", "grpc://node-b:8815"])  # type: ignore[assignment]
        assert places(flight.url) == ["grpc://node-b:8815", "grpc://node-a:8815"]
    finally:
        flight.stop(1.0)
        models.stop(1.0)
        surroundings.close()


def places(url: str) -> list[str]:
    """Return the addresses of the only endpoint of `ListFlights`."""
    with fl.FlightClient(url) as client:
        (info,) = client.list_flights()
        (endpoint,) = info.endpoints
        return [place.uri.decode() for place in endpoint.locations]
