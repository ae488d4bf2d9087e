"""`Locations`: folders of the models that have a URL, and a look at aliases for a new version."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from fletcher.runtime.errors import FletcherError, StoppingError
from fletcher.runtime.remote.alias import read_alias
from fletcher.runtime.remote.locate import Located, fetch, locate, relocate
from fletcher.runtime.remote.url import is_url, parse_url

from .changes import Change
from .spec import ModelSpec

__all__ = ["Locations"]

logger = logging.getLogger("fletcher.serve.models.locations")


class Locations:
    """Folders on this machine of the models that have a URL. Safe to use from several threads.

    A folder stays in the cache while a specification has it, also while its model sleeps.

    Attributes:
        follow_seconds: seconds between two looks at the aliases; 0 looks at them only when specifications are read again.
    """

    def __init__(self, follow_seconds: float = 0.0) -> None:
        """Start without models."""
        self.follow_seconds = follow_seconds
        self._held: dict[str, Located] = {}
        self._versions: dict[str, str] = {}
        self._lock = threading.Lock()

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """Return a specification whose path is a folder on this machine, and whose source is the URL that it had.

        Raises:
            FletcherError: as for `locate`.
        """
        if spec.source and not is_url(spec.path):
            with self._lock:
                held = spec.path in self._held
            if held or ((found := relocate(spec.path)) is not None and self._hold(found)):
                return spec
            spec = _unlocated(spec)
        if not is_url(spec.path):
            return spec
        located = locate(spec.path, digest=spec.digest)
        self._hold(located)
        if located.version:
            self._versions[spec.path] = located.version
        return msgspec.structs.replace(spec, path=str(located.folder), source=spec.path)

    def keep(self, specs: Sequence[ModelSpec]) -> None:
        """Let the cache remove folders that no specification has."""
        wanted = {spec.path for spec in specs}
        with self._lock:
            dropped = [path for path in self._held if path not in wanted]
            closed = [self._held.pop(path) for path in dropped]
        for located in closed:
            located.close()

    def follow(
        self, specs: Callable[[], Sequence[ModelSpec]], edit: Callable[[Change], None], stopped: threading.Event
    ) -> None:
        """Look at the aliases from time to time, and exchange the models whose alias has changed. A failure is logged.

        Args:
            specs: returns the present specifications.
            edit: applies a change to them.
            stopped: ends this call.
        """
        while not stopped.wait(self.follow_seconds):
            for url in sorted({spec.source for spec in specs() if _is_alias(spec.source)}):
                try:
                    self._look(url, edit)
                except StoppingError:
                    return
                except FletcherError as error:
                    fields = {"alias": url, "reason": str(error), "error": type(error).__name__}
                    logger.error("the new version of an alias is not served", extra={"fields": fields})

    def _look(self, url: str, edit: Callable[[Change], None]) -> None:
        """Exchange the models of an alias if it has changed.

        Raises:
            FletcherError: the new version cannot be had or loaded. One that was there and cannot be loaded is not tried again
                until the alias changes; a server that does not answer is asked again.
        """
        target = read_alias(parse_url(url), self._versions.get(url, ""))
        if target is None:
            return
        # Downloaded before the change begins, during which other changes of models wait.
        located = fetch(parse_url(url))
        self._hold(located)
        self._versions[url] = located.version
        path = str(located.folder)
        edit(lambda specs: [msgspec.structs.replace(each, path=path) if each.source == url else each for each in specs])

    def _hold(self, located: Located) -> bool:
        """Keep a folder from being removed; return True."""
        with self._lock:
            before = self._held.get(str(located.folder))
            self._held[str(located.folder)] = located
        if before is not None:
            before.close()
        return True


def _unlocated(spec: ModelSpec) -> ModelSpec:
    """Return a specification as it was before its URL was resolved."""
    return msgspec.structs.replace(spec, path=spec.source, source="")


def _is_alias(source: str) -> bool:
    return bool(source) and parse_url(source).is_alias
