"""`Parking`: parts of streams that wait until the queue has room for them. They do not hold tokens or memory of the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..open_request import OpenRequest
from ..terms import Flow

__all__ = ["Parking"]


class Parking:
    """Requests by flow; flows take turns. Not safe to use from several threads: the admission's lock guards it.

    Attributes:
        flows: the requests that wait, by flow; a flow without requests is not in it.
    """

    def __init__(self) -> None:
        self.flows: dict[Flow, deque[OpenRequest]] = {}

    @property
    def count(self) -> int:
        """Return the number of requests."""
        return sum(map(len, list(self.flows.values())))

    def add(self, request: OpenRequest) -> None:
        """Add a request behind the other requests of its flow."""
        self.flows.setdefault(request.flow, deque()).append(request)

    def take(self, fits: Callable[[OpenRequest], bool]) -> OpenRequest | None:
        """Remove and return the first request that fits, or return None. Its flow then comes after all other flows.

        Args:
            fits: function that returns whether the queue has room for a request.
        """
        for flow, requests in self.flows.items():
            if fits(requests[0]):
                del self.flows[flow]
                request = requests.popleft()
                if requests:
                    self.flows[flow] = requests
                return request
        return None

    def clear(self) -> None:
        """Remove all requests."""
        self.flows.clear()
