"""Checks of access: addresses, API keys, and the way out of a load balancer."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fletcher.runtime.errors import FletcherError

from ..access.addresses import HostPort, UnixPath, bind, is_loopback
from ..access.keys_file import read_keys
from ..listening import Listening, listening_addresses
from ..server_options import OFF, ServerOptions
from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = ["check_addresses", "check_keys", "check_leaving", "check_transport"]

#: Seconds before the end of a key in which its owner needs a new one.
SOON: Final = 14 * 86400


def check_addresses(subject: Subject) -> Iterator[Finding]:
    """Check that the server can listen where its options say."""
    try:
        listening = listening_addresses(subject.options)
    except FletcherError as problem:
        yield error(str(problem), "change the options of the server")
        return
    for address, option in _addresses(listening):
        if not isinstance(address, HostPort):
            continue
        try:
            bind(address, option).close()
        except FletcherError as problem:
            yield advice(str(problem), "nothing, if it is this server that runs there")
        else:
            yield fine(f"{option} {address} can be used")


def check_transport(subject: Subject) -> Iterator[Finding]:
    """Check whether texts cross a network in the clear."""
    outside = _outside(subject.options)
    if outside and subject.options.tls_cert is not None:
        yield fine("keys and texts are encrypted on their way from other machines")
    elif outside:
        yield advice(
            f"other machines can reach {', '.join(map(str, outside))}, where keys and texts are not encrypted",
            "use --tls-cert and --tls-key, or a reverse proxy or mesh that ends TLS (docs/howto/tls.md)",
        )
    else:
        yield fine("other machines cannot reach the server")


def check_keys(subject: Subject) -> Iterator[Finding]:
    """Check the file of API keys: its permissions and its keys; without keys, who may call."""
    options = subject.options
    if options.keys is None:
        if options.identifies:
            yield fine("certificates or signed tokens name the clients")
        elif _outside(options):
            yield warning(
                "everybody who reaches the server may embed",
                "make keys: fletcher-serve keys add NAME --keys FILE, and start with --keys FILE",
            )
        else:
            yield fine("no key is needed, and other machines cannot reach the server")
        return
    path = Path(options.keys)
    try:
        keys = read_keys(path)
        mode = path.stat().st_mode
    except FletcherError as problem:
        yield error(str(problem), f"make the file: fletcher-serve keys add NAME --keys {path}")
        return
    if not keys:
        yield error(f"{path} has no key", f"fletcher-serve keys add NAME --keys {path}")
    if mode & stat.S_IROTH:
        yield warning(f"every user of the machine may read {path} (names and hashes)", f"chmod 640 {path}")
    elif keys:
        yield fine(f"{path} has {len(keys)} keys, and only its owner may change it")
    now = time.time()
    if expired := [key.name for key in keys if key.expired(now)]:
        yield warning(f"expired keys: {', '.join(expired)}", "fletcher-serve keys remove NAME, and add a new one")
    if soon := [key.name for key in keys if key.expired(now + SOON) and not key.expired(now)]:
        yield advice(f"keys that expire within {SOON // 86400} days: {', '.join(soon)}", "give their owners new ones")
    if options.admin != OFF and not any(key.role == "admin" for key in keys):
        yield advice("the admin API is on, and no key may use it", "fletcher-serve keys add NAME --admin")


def check_leaving(subject: Subject) -> Iterator[Finding]:
    """Check that load balancers get time to leave a server that stops."""
    options = subject.options
    if _outside(options) and not options.lame_duck_seconds:
        yield advice(
            "the server refuses requests as soon as it stops, before load balancers know it",
            "use --lame-duck-seconds 10 behind a load balancer or in Kubernetes",
        )
    else:
        yield fine(f"a stop takes up to {options.lame_duck_seconds + options.drain_seconds:g} s")


def _outside(options: ServerOptions) -> list[HostPort]:
    """Return the addresses that other machines can reach."""
    try:
        listening = listening_addresses(options)
    except FletcherError:
        listening = Listening(None, None)
    addresses = [address for address, _ in _addresses(listening)]
    return [each for each in addresses if isinstance(each, HostPort) and not is_loopback(each.host)]


def _addresses(listening: Listening) -> tuple[tuple[HostPort | UnixPath | None, str], ...]:
    """Return each address with its option."""
    return (listening.http, "--http"), (listening.flight, "--flight"), (listening.admin, "--admin")
