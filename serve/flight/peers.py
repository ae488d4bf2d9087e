"""Addresses of peers in gRPC's words, and in the names of a server's own Unix sockets."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePath
from urllib.parse import unquote

__all__ = ["certificate_file", "peer_certificate", "peer_host", "peer_name"]

#: Beginning of the name of a socket through which a relay passes a client's connection.
PREFIX = "peer-"

#: Beginning of the name of the file with the name in the client's certificate. The name of a socket is too short for it.
CERTIFICATE = "certificate-"


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


def certificate_file(folder: Path, number: int) -> Path:
    """Return the file with the name in the certificate of a relayed client.

    Args:
        folder: private folder of the relay's sockets.
        number: number of the connection, which no other connection has.
    """
    return folder / f"{CERTIFICATE}{number}"


@lru_cache(4096)
def peer_certificate(peer: str) -> str | None:
    """Return the name in the certificate of a relayed client; None if it has none, or if no relay has named the peer.

    Args:
        peer: gRPC's name of the peer.
    """
    if not peer.startswith("unix:"):
        return None
    path = Path(unquote(peer.removeprefix("unix:")))
    number = path.name.removeprefix(PREFIX).partition("-")[0]
    if not path.name.startswith(PREFIX) or not number.isdigit():
        return None
    try:
        return certificate_file(path.parent, int(number)).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
