"""`ClusterFlight`: a Flight server that names those of all replicas, and `AddressBook`, the actor from which it knows them.

Flight does not go through Ray Serve: each replica listens on a port of its own. A client asks any of them (`ListFlights`,
`GetFlightInfo`); the only endpoint has the addresses of all replicas, its own first. With one port on every node, a name in
DNS with the addresses of the nodes does the same, with gRPC's `round_robin` in the client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ..flight.server import FlightServer

__all__ = ["ACTOR", "LEASE_SECONDS", "NAMESPACE", "AddressBook", "ClusterFlight", "Registration"]

logger = logging.getLogger("fletcher.serve.cluster_ray")

#: Name and namespace of the actor.
ACTOR: Final = "fletcher-addresses"
NAMESPACE: Final = "fletcher"

#: Seconds for which an address is listed after its replica has renewed it, and between two renewals.
LEASE_SECONDS: Final = 15.0
RENEW_SECONDS: Final = 2.0

#: Seconds that the actor may take to answer.
ANSWER_SECONDS: Final = 5.0


class AddressBook:
    """Addresses of the replicas of each deployment, each for `LEASE_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without addresses.

        Args:
            clock: returns seconds.
        """
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}

    def renew(self, deployment: str, address: str) -> list[str]:
        """Add or renew an address, and return all addresses of its deployment, in order."""
        self._until[deployment, address] = self._clock() + LEASE_SECONDS
        return self.addresses(deployment)

    def leave(self, deployment: str, address: str) -> None:
        """Remove an address."""
        self._until.pop((deployment, address), None)

    def addresses(self, deployment: str) -> list[str]:
        """Return the addresses of a deployment, in order."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return sorted(address for name, address in self._until if name == deployment)


class ClusterFlight(FlightServer):
    """Flight server of a replica.

    Attributes:
        advertised: the address at which other machines reach it.
        registration: what the replica knows of the others, or None before it is registered.
    """

    advertised: str = ""
    registration: Registration | None = None

    def locations(self) -> list[str]:
        """Return the addresses of all replicas, its own first."""
        others = [] if self.registration is None else self.registration.addresses
        own = self.advertised or self.url
        return [own, *(address for address in others if address != own)]


class Registration:
    """Entry of a replica in the address book, which a thread renews until `close`.

    Attributes:
        addresses: addresses of the deployment's replicas, as the book had them last.
    """

    def __init__(self, book: Callable[[], Any], deployment: str, address: str) -> None:
        """Register, and start the thread.

        Args:
            book: returns the handle of the actor, and makes the actor if there is none.
            deployment: name of the deployment.
            address: address of the replica's Flight server.
        """
        self.addresses: list[str] = [address]
        self._book = book
        self._entry = (deployment, address)
        self._ended = threading.Event()
        self.addresses = self._ask("renew") or self.addresses
        self._thread = threading.Thread(target=self._renew, name="fletcher-addresses", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and remove the entry."""
        self._ended.set()
        self._thread.join(2 * ANSWER_SECONDS)
        self._ask("leave")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            found = self._ask("renew")
            if found is not None:
                self.addresses = found

    def _ask(self, method: str) -> Any:
        """Call the actor. While it does not answer, the last addresses stay, and the next call makes a new actor."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(getattr(self._book(), method).remote(*self._entry), timeout=ANSWER_SECONDS)
        except (RayError, ValueError, TimeoutError) as error:  # ValueError: the name is of an actor that is ending
            logger.warning("the address book does not answer", extra={"fields": {"reason": str(error)[:200]}})
            return None


def open_book() -> Any:
    """Return the handle of the address book's actor. The first caller in a cluster makes it."""
    import ray

    options = {"name": ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
    return ray.remote(AddressBook).options(**options, max_restarts=-1).remote()
