"""`FrontFlightServer`: the Flight server of a front; its actions run in the engine process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.flight as fl

from ...flight.middleware import caller_of, certificate_of, peer_of, request_id
from ...flight.server import FlightServer
from ...request_headers import CERTIFICATE, PEER, REQUEST_ID

__all__ = ["FrontFlightServer"]


class FrontFlightServer(FlightServer):
    """A Flight server without a session.

    Attributes:
        engine_url: URL of the engine process's Flight server.
    """

    engine_url = ""

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """Pass an action to the engine process, which has the models, and return its results."""
        headers = {REQUEST_ID: request_id(context), PEER: peer_of(context)}
        if (authorization := caller_of(context).authorization) is not None:
            headers["authorization"] = authorization
        if (name := certificate_of(context)) is not None:
            headers[CERTIFICATE] = name
        options = fl.FlightCallOptions(headers=[(name.encode(), value.encode()) for name, value in headers.items()])
        with fl.connect(self.engine_url) as client:
            return iter([fl.Result(result.body) for result in client.do_action(action, options)])
