"""Checks of signed tokens: settings, the issuer's keys, and the clocks of both machines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fletcher.runtime.errors import FletcherError

from ..access.tokens.key_set import read_key_set
from ..access.tokens.key_source import fetch_keys
from ..access.tokens.settings import TokenSettings, read_settings
from ..access.tokens.tokens import require_packages
from ..server_options import OFF
from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = ["check_tokens"]

#: Difference of two clocks in seconds that a header `Date`, which has whole seconds, cannot tell from none.
COARSE: Final = 2.0


def check_tokens(subject: Subject) -> Iterator[Finding]:
    """Check that the server can verify the tokens of its issuer."""
    options = subject.options
    if options.jwt is None:
        yield fine("no signed tokens")
        return
    path = Path(options.jwt)
    try:
        require_packages()
        settings = read_settings(path)
    except FletcherError as problem:
        yield error(str(problem), "correct the file of --jwt (docs/howto/tokens.md has every setting)")
        return
    audiences = ", ".join(settings.audiences)
    yield fine(f"tokens of {settings.issuer} for {audiences} are accepted")
    if options.admin != OFF and options.keys is None and not any(s.role == "admin" for s in settings.scopes.values()):
        yield advice("the admin API is on, and no scope may use it", f'give a scope in {path} the role = "admin"')
    yield from _check_keys(settings)


def _check_keys(settings: TokenSettings) -> Iterator[Finding]:
    """Check that the issuer's keys can be read and used, and compare the clock with that of their server."""
    began = time.time()
    try:
        fetched = fetch_keys(settings)
    except FletcherError as problem:
        yield error(
            str(problem),
            "check jwks and ca in the file of --jwt, and that this machine reaches the address: a server without keys does "
            "not start",
        )
        return
    ended = time.time()
    try:
        keys, left_out = read_key_set(fetched.content)
    except FletcherError as problem:
        yield error(str(problem), "check that jwks names the JWK Set of the issuer, and not its configuration")
        return
    for reason in left_out:
        yield advice(f"a key of the issuer is left out: {reason}", "nothing, if it is not for these tokens")
    usable = [name for name, key in keys.items() if key.algorithms & set(settings.algorithms)]
    if not usable:
        present = sorted(set().union(*(key.algorithms for key in keys.values())))
        yield error(
            f"none of the issuer's {len(keys)} keys is for {', '.join(settings.algorithms)}",
            f"set algorithms in the file of --jwt; the keys are for {', '.join(present)}",
        )
    else:
        yield fine(f"{len(usable)} keys of the issuer can be used")
    if fetched.date is None:
        return
    # `Date` was written between both times, and is cut to whole seconds.
    apart = max(began - fetched.date - 1.0, fetched.date - ended, 0.0)
    if apart > settings.leeway_seconds:
        yield warning(
            f"the clocks of this machine and of the server of the keys differ by {apart:.0f} s, and leeway_seconds is "
            f"{settings.leeway_seconds:g}: tokens seem expired, or not valid yet",
            "synchronize both clocks (chrony, systemd-timesyncd)",
        )
    elif apart > COARSE:
        yield advice(
            f"the clocks of this machine and of the server of the keys differ by {apart:.0f} s",
            "synchronize both clocks (chrony, systemd-timesyncd)",
        )
    else:
        yield fine("the clock is that of the server of the keys")
