"""Addresses on which a server listens, from its options."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fletcher.runtime.errors import InputError

from .access.addresses import Addresses, HostPort, UnixPath, parse
from .access.gate import check_binding
from .server_options import FLIGHT, OFF, ON, ServerOptions

__all__ = ["Listening", "address_lines", "announce", "listening_addresses", "private_folder"]

logger = logging.getLogger("fletcher.serve")

#: Longest folder for temporary files in which a Unix socket fits: a path has 104 bytes on macOS, 108 on Linux.
LONGEST_FOLDER: Final = 70


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
            check_binding(address, option, keys=options.identifies, allow_anonymous=anonymous)
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


def private_folder() -> Path:
    """Return a new folder for Unix sockets that only the server's user reaches."""
    long = len(tempfile.gettempdir()) > LONGEST_FOLDER
    return Path(tempfile.mkdtemp(prefix="fletcher-", dir="/tmp" if long else None))


def address_lines(addresses: Addresses) -> list[str]:
    """Return the lines that tell a person the addresses."""
    named = {"HTTP": addresses.http, "Flight": addresses.flight, "Admin API": addresses.admin}
    return [f"{protocol} on {url}" for protocol, url in named.items() if url is not None]


def announce(lines: Sequence[str]) -> None:
    """Print lines on standard output. If it cannot be written, as on a full disk, log them: the server goes on.

    Raises:
        BrokenPipeError: the reader of standard output has ended.
    """
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fields = {"reason": str(error), "lines": [*lines]}
        logger.error("the addresses cannot be printed on standard output", extra={"fields": fields})


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
