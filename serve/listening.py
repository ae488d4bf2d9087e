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
from .server_options import FLIGHT, OFF, ON, ServerOptions

__all__ = ["Listening", "announce", "listening_addresses"]

logger = logging.getLogger("fletcher.serve")


@dataclass(frozen=True, slots=True)
class Listening:
    """Addresses to listen on.

    Attributes:
        http: address of HTTP, or None.
        flight: address of Flight, or None.
        admin: address of its own of the admin API, or None.
    """

    http: HostPort | UnixPath | None
    flight: HostPort | None
    admin: HostPort | UnixPath | None = None

    def remove_socket(self) -> None:
        """Remove the files of the Unix sockets, if there are any. The sockets are closed."""
        for address in (self.http, self.admin):
            if isinstance(address, UnixPath):
                address.path.unlink(missing_ok=True)


def listening_addresses(options: ServerOptions) -> Listening:
    """Return the addresses that the options name.

    Raises:
        InputError: neither HTTP nor Flight is enabled, an address is invalid, or other machines can reach an address and
            there are no keys.
    """
    http_at = _address(options.http, "--http", options)
    admin_at = None if options.admin in (OFF, ON) else _address(options.admin, "--admin", options)
    flight = _flight_address(options)
    flight_at = None if flight == OFF else parse(flight, "--flight")
    if http_at is None and flight_at is None:
        raise InputError(
            "neither HTTP nor Flight is enabled, and a server needs one of them: give --http or --flight an address"
        )
    for address, option in ((http_at, "--http"), (flight_at, "--flight"), (admin_at, "--admin")):
        if isinstance(address, HostPort):
            # Without keys, the admin API answers to the loopback alone.
            anonymous = options.allow_anonymous and option != "--admin"
            check_binding(address, option, keys=options.keys is not None, allow_anonymous=anonymous)
    return Listening(http_at, flight_at, admin_at)


def _address(text: str, option: str, options: ServerOptions) -> HostPort | UnixPath | None:
    """Return an address of HTTP; None if it is off.

    Raises:
        InputError: the address is invalid.
    """
    if text == OFF:
        return None
    kind, colon, path = text.partition(":")
    if kind != "unix" or not colon:
        return parse(text, option)
    if not path:
        raise InputError(f"{option} is {text!r}: write the path of the socket, as unix:/run/fletcher/http.sock")
    return UnixPath(Path(path).absolute(), int(options.socket_mode, 8))


def announce(addresses: Addresses) -> None:
    """Print the addresses on standard output."""
    for protocol, url in (("HTTP", addresses.http), ("Flight", addresses.flight), ("Admin API", addresses.admin)):
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
