"""`HostPort`: an address in the form `HOST:PORT`, and a listening socket on it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

__all__ = ["Addresses", "HostPort", "UnixPath", "bind", "bind_path", "is_loopback", "parse", "url_of"]

#: Largest number of connections that wait to be accepted. The system can have a lower limit.
BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses on which a server listens.

    Attributes:
        http: URL of the HTTP server, or None if HTTP is off.
        flight: URL of the Flight server, or None if Flight is off.
        admin: URL of the admin API if it has an address of its own, else None.
    """

    http: str | None
    flight: str | None
    admin: str | None = None


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to listen on. Port 0 takes a free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix socket to listen on.

    Attributes:
        path: absolute path.
        mode: permissions of the socket.
    """

    path: Path
    mode: int = 0o600

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse(text: str, option: str) -> HostPort:
    """Read `HOST:PORT`, `:PORT` or `[IPV6]:PORT`.

    Args:
        text: text from the user.
        option: name of the option, for the error.

    Raises:
        InputError: the text is not an address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InputError(
            f"{option} is {text!r}; it must be HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8080"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(f"{option} is {text!r}: write an IPv6 address in brackets, as [::1]:8080")
    return HostPort(host or "127.0.0.1", int(port))


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """Return the URL of HTTP on a listening socket.

    Args:
        listener: the socket.
        tls: True if connections are encrypted. Those of a Unix socket never are.
    """
    where = listener.getsockname()
    return f"http+unix://{where}" if isinstance(where, str) else f"http{'s' if tls else ''}://{HostPort(*where[:2])}"


def bind(address: HostPort | UnixPath, option: str, *, shared: bool = False) -> socket.socket:
    """Return a listening socket.

    Args:
        address: address to listen on.
        option: name of the option that has the address, for the error.
        shared: whether other processes of this user, which ask for the same, may listen on the port, too. The system gives
            each connection to one of them.

    Raises:
        InputError: the port is in use, the host is unknown, the address does not belong to this machine, or the system does
            not allow it.
    """
    if isinstance(address, UnixPath):
        return _bind_unix(address, option)
    try:
        family, kind, protocol, _, location = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(f"{option} {address}: the host {address.host!r} is unknown ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # This allows a port whose last connections are still closing, but not a port on which a program listens.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(location)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"{option} {address}: the port is in use. Stop the program that listens there, or choose another port with "
                f"{option} {HostPort(address.host, 0)} (0 takes a free one)"
            ) from error
        raise InputError(f"{option} {address}: cannot listen there ({explain(error)})") from error
    return listener


def _bind_unix(address: UnixPath, option: str) -> socket.socket:
    """Return a listening Unix socket. A socket that an ended process left is replaced.

    Raises:
        InputError: a program listens there, the path has another file, or the system does not allow it.
    """
    path = address.path
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{option} {address}: cannot listen there ({explain(error)})") from error
            else:
                raise InputError(f"{option} {address}: a program listens there. Stop it, or choose another path")
    elif path.exists():
        raise InputError(f"{option} {address}: the file exists and is not a socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(address.mode)  # before anybody can connect
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"{option} {address}: cannot listen there ({explain(error)})") from error
    return listener


def bind_path(path: str) -> socket.socket:
    """Return a listening Unix socket. A file that an ended process left at the path is replaced.

    Args:
        path: path of the socket in a private folder, so that no other program listens there.

    Raises:
        InputError: the system does not allow it, for example because the path is too long.
    """
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {path} ({explain(error)})") from error
    return listener


def is_loopback(host: str | None) -> bool:
    """Return True if an address is a loopback address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
