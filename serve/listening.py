"""Addresses on which a server listens, from its options."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from fletcher.runtime.errors import InputError

from .access.addresses import Addresses, HostPort, UnixPath, parse
from .access.gate import check_binding
from .server_options import FLIGHT, OFF, ServerOptions

__all__ = ["Listening", "announce", "listening_addresses"]

logger = logging.getLogger("fletcher.serve")


@dataclass(frozen=True, slots=True)
class Listening:
    """Addresses to listen on.

    Attributes:
        http: address of HTTP, or None.
        flight: address of Flight, or None.
    """

    http: HostPort | UnixPath | None
    flight: HostPort | None

    def remove_socket(self) -> None:
        """Remove the file of the Unix socket of HTTP, if there is one. The socket is closed."""
        if isinstance(self.http, UnixPath):
            self.http.path.unlink(missing_ok=True)


def listening_addresses(options: ServerOptions) -> Listening:
    """Return the addresses that the options name.

    Raises:
        InputError: neither HTTP nor Flight is enabled, an address is invalid, or other machines can reach an address and
            there are no keys.
    """
    http_at = _http_address(options)
    flight = _flight_address(options)
    flight_at = None if flight == OFF else parse(flight, "--flight")
    if http_at is None and flight_at is None:
        raise InputError(
            "neither HTTP nor Flight is enabled, and a server needs one of them: give --http or --flight an address"
        )
    for address, option in ((http_at, "--http"), (flight_at, "--flight")):
        if isinstance(address, HostPort):
            check_binding(address, option, keys=options.keys is not None, allow_anonymous=options.allow_anonymous)
    return Listening(http_at, flight_at)


def _http_address(options: ServerOptions) -> HostPort | UnixPath | None:
    """Return the address of HTTP; None if it is off.

    Raises:
        InputError: the address is invalid.
    """
    if options.http == OFF:
        return None
    kind, colon, path = options.http.partition(":")
    if kind != "unix" or not colon:
        return parse(options.http, "--http")
    if not path:
        raise InputError(f"--http is {options.http!r}: write the path of the socket, as unix:/run/fletcher/http.sock")
    return UnixPath(Path(path).absolute(), int(options.socket_mode, 8))


def announce(addresses: Addresses) -> None:
    """Print the addresses on standard output."""
    for protocol, url in (("HTTP", addresses.http), ("Flight", addresses.flight)):
        if url is not None:
            sys.stdout.write(f"{protocol} on {url}\n")
    sys.stdout.flush()


def _flight_address(options: ServerOptions) -> str:
    """Return the requested address of Flight, or the default one; `off` if there is no request and pyarrow is missing."""
    if options.flight is not None:
        return options.flight
    if _has_pyarrow():
        return FLIGHT
    logger.info(
        "Arrow Flight is off",
        extra={"fields": {"reason": "pyarrow is not installed: pip install 'longbow-fletcher[flight]'"}},
    )
    return OFF


def _has_pyarrow() -> bool:
    try:
        return importlib.util.find_spec("pyarrow") is not None
    except ModuleNotFoundError:  # an import hook hides the package
        return False
