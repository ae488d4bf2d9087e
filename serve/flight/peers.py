"""Addresses of peers in gRPC's words, and in the names of a server's own Unix sockets."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import unquote

__all__ = ["peer_host", "peer_name"]

#: Beginning of the name of a socket through which the supervisor relays a client's connection.
PREFIX = "peer-"


def peer_name(host: str, number: int) -> str:
    """Return the name of a relay's socket for a client.

    Args:
        host: address of the client.
        number: number of the connection.
    """
    return f"{PREFIX}{number}-{host.replace(':', '_').partition('%')[0]}"


def peer_host(peer: str) -> str | None:
    """Return the address of a call's client: `ipv4:127.0.0.1:5000` and `ipv6:[::1]:5000` without scheme and port.

    Args:
        peer: gRPC's name of the peer.

    Returns:
        The address; None for a Unix socket that no relay has named.
    """
    if not peer.startswith("unix:"):
        return peer.rpartition(":")[0].partition(":")[2].strip("[]")
    name = PurePath(unquote(peer.removeprefix("unix:"))).name
    if not name.startswith(PREFIX):
        return None
    return name.removeprefix(PREFIX).partition("-")[2].replace("_", ":")
