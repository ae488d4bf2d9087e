"""`Locations`: folders of the models that have a URL, and a look at aliases for a new version."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from fletcher.runtime.errors import FletcherError, StoppingError
from fletcher.runtime.remote.alias import read_alias
from fletcher.runtime.remote.locate import Located, fetch, locate, relocate
from fletcher.runtime.remote.url import is_url, parse_url

from ...errors import ConflictError
from ..changes import Change
from ..spec import ModelSpec

__all__ = ["Locations"]

logger = logging.getLogger("fletcher.serve.models.remote.locations")


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

    @contextmanager
    def resolved(self, specs: Sequence[ModelSpec]) -> Iterator[list[ModelSpec]]:
        """Yield specifications whose paths are folders on this machine, and whose sources are the URLs that they had.

        The folders stay in the cache during the block, in which the caller calls `keep` for those that are served.

        Raises:
            FletcherError: as for `locate`.
        """
        with ExitStack() as holds:
            yield [self._resolve(spec, holds) for spec in specs]

    def _resolve(self, spec: ModelSpec, holds: ExitStack) -> ModelSpec:
        if spec.source and not is_url(spec.path):
            if (found := relocate(spec.path)) is not None:
                holds.enter_context(found)
                return spec
            spec = msgspec.structs.replace(spec, path=spec.source, source="")  # it was removed from the cache
        if not is_url(spec.path):
            return spec
        located = holds.enter_context(locate(spec.path, digest=spec.digest))
        if located.version:
            self._versions[spec.path] = located.version
        return msgspec.structs.replace(spec, path=str(located.folder), source=spec.path)

    def keep(self, specs: Sequence[ModelSpec]) -> None:
        """Hold the folders of these specifications that came from URLs, and let the cache remove the others."""
        wanted = {spec.path for spec in specs if spec.source}
        with self._lock:
            for path in wanted - set(self._held):
                if (found := relocate(path)) is not None:
                    self._held[path] = found
            closed = [self._held.pop(path) for path in set(self._held) - wanted]
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
                    self._look(url, specs, edit)
                except StoppingError:
                    return
                except (FletcherError, OSError) as error:
                    fields = {"alias": url, "reason": str(error), "error": type(error).__name__}
                    logger.error("the new version of an alias is not served", extra={"fields": fields})

    def _look(self, url: str, specs: Callable[[], Sequence[ModelSpec]], edit: Callable[[Change], None]) -> None:
        """Exchange the models of an alias if it has changed.

        Raises:
            FletcherError: the new version cannot be had or loaded. One that was there and cannot be loaded is not tried again
                until the alias changes; a server that does not answer is asked again.
        """
        known = self._versions.get(url, "")
        if read_alias(parse_url(url), known) is None:
            return
        with fetch(parse_url(url)) as located:
            self._versions[url] = located.version
            path = str(located.folder)
            try:
                edit(
                    lambda old: [
                        msgspec.structs.replace(each, path=path) if each.source == url else each for each in old
                    ]
                )
            except ConflictError:  # another change is under way: the next look tries again
                self._versions[url] = known
            finally:
                self.keep(specs())


def _is_alias(source: str) -> bool:
    return bool(source) and parse_url(source).is_alias
