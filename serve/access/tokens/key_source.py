"""`KeySource`: the issuer's keys, which a thread reads from their URL or file, again and again."""

from __future__ import annotations

import logging
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from .key_set import IssuerKey, read_key_set
from .settings import TokenSettings

__all__ = ["FetchedKeys", "KeySource", "fetch_keys"]

logger = logging.getLogger("fletcher.serve.access")

#: Seconds in which the server of the keys must send something.
TIMEOUT_SECONDS: Final = 5.0

#: Largest set of keys in bytes.
MOST_BYTES: Final = 1 << 20

#: Seconds between two reads that unknown keys ask for, so that made-up tokens do not flood the issuer.
PAUSE_SECONDS: Final = 10.0

#: Seconds until the next read after a failure.
RETRY_SECONDS: Final = 5.0


class KeySource:
    """The keys of an issuer. Readers never wait. Safe to use from any thread.

    Attributes:
        keys: the present keys by id; empty until the first read has succeeded.
        failures: number of reads that failed.
        read_at: time of the last read that succeeded, by `time.time()`; 0 before.
    """

    def __init__(self, settings: TokenSettings, on_change: Callable[[], None]) -> None:
        """Prepare; nothing is read.

        Args:
            settings: settings of the tokens.
            on_change: called after the keys have changed.
        """
        self._settings = settings
        self._on_change = on_change
        self.keys: Mapping[str | None, IssuerKey] = {}
        self.failures = 0
        self.read_at = 0.0
        self._content = b""
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._stopped = False
        self._pending: Future[None] | None = None
        self._last_try = float("-inf")
        self._thread = threading.Thread(target=self._run, name="fletcher-jwks", daemon=True)

    def start(self, *, needed: bool) -> None:
        """Read the keys, and read them again from now on.

        Args:
            needed: True if a failure of the first read is an error.

        Raises:
            InputError: the keys cannot be read.
        """
        try:
            self.read()
        except InputError as error:
            if needed:
                raise
            self._note(error)
        self._thread.start()

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._stopped = True
        self._asked.set()

    def ask(self) -> Future[None] | None:
        """Let the thread read the keys now.

        Returns:
            A future that is done after the read; None if one has just been tried.
        """
        with self._lock:
            if self._pending is None:
                if time.monotonic() - self._last_try < PAUSE_SECONDS:
                    return None
                self._pending = Future()
                self._pending.set_running_or_notify_cancel()  # a request that ends must not cancel it for others
                self._asked.set()
            return self._pending

    def read(self) -> None:
        """Read the keys now. Keys that cannot be read change nothing.

        Raises:
            InputError: they cannot be read, or cannot be used.
        """
        try:
            content = fetch_keys(self._settings).content
            if content != self._content:
                keys, left_out = read_key_set(content)
                for reason in left_out:
                    logger.warning("a key of the issuer is left out", extra={"fields": {"reason": reason}})
                self.keys, self._content = keys, content
                self._on_change()
            self.read_at = time.time()
        finally:
            self._last_try = time.monotonic()

    def _run(self) -> None:
        seconds = self._settings.refresh_seconds
        while True:
            self._asked.wait(seconds)
            with self._lock:
                self._asked.clear()
                pending = self._pending
            try:
                if self._stopped:
                    return
                self.read()
                seconds = self._settings.refresh_seconds
            except InputError as error:
                self._note(error)
                seconds = min(RETRY_SECONDS, self._settings.refresh_seconds)
            except Exception:  # a defect: the thread goes on, and so do the keys that it has
                logger.exception("the keys of the issuer were not read")
                self.failures += 1
            finally:
                with self._lock:
                    self._pending = None
                if pending is not None:
                    pending.set_result(None)

    def _note(self, error: InputError) -> None:
        self.failures += 1
        fields: dict[str, object] = {"reason": str(error), "keys": len(self.keys)}
        logger.error("the keys of the issuer were not read: those before go on", extra={"fields": fields})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirection: the settings name the server of the keys."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a redirection; urllib then raises an error with its status."""


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """The issuer's keys as they were read.

    Attributes:
        content: JWK Set, which was not looked at.
        date: time of the server of the keys (its header `Date`), in seconds since 1970; None if it is not known.
    """

    content: bytes
    date: float | None = None


def fetch_keys(settings: TokenSettings) -> FetchedKeys:
    """Read the issuer's keys from their URL or file.

    Raises:
        InputError: the server does not answer, or answers with an error or too much; or the file cannot be read.
    """
    if not settings.remote:
        return FetchedKeys(_read_file(Path(settings.jwks)))
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))
        with opener.open(settings.jwks, timeout=TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read(MOST_BYTES + 1)
            date = _seconds(answer.headers.get("date"))
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(f"the server of the keys, {settings.jwks}, answered with {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"the server of the keys, {settings.jwks}, does not answer: {reason}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"the server of the keys, {settings.jwks}, sent more than {MOST_BYTES} bytes")
    return FetchedKeys(content, date)


def _seconds(date: str | None) -> float | None:
    """Return the time of a header `Date` (RFC 9110 section 5.6.7); None if there is none, or it is not a time."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the file of the keys, {path}, cannot be read: {explain(error)}") from error
