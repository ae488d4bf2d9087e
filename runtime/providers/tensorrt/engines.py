"""Build of engines before a server is ready, with progress in the log."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...artifact.holding import hold
from ...errors import DeviceLostError, DeviceMemoryError, FletcherError, ProviderError
from .engine_cache import RECORD, EngineCache, Estimate
from .options import CONTEXT

__all__ = ["EngineWatch", "Make", "build_engines", "profile_folder", "reporting"]

logger = logging.getLogger("fletcher.runtime.providers.tensorrt.engines")

#: Seconds between two log messages.
INTERVAL = 5.0

#: Function that builds the engine of a profile in a folder and writes `CONTEXT` there. The second folder is for timings of
#: kernels.
Make = Callable[[int, Path, Path], None]


def profile_folder(folder: Path, profile: int) -> Path:
    """Return the folder of the engine of a profile."""
    return folder / f"profile-{profile}"


def build_engines(cache: EngineCache, profiles: Sequence[int], make: Make, *, variant: str, weights: int) -> Path:
    """Build an engine for each profile, and publish them together. The caller holds `cache.alone`.

    Args:
        cache: cache of the engines.
        profiles: indices of the profiles.
        make: function that builds one engine.
        variant: name of the variant, for the log.
        weights: bytes of the weights, for the estimate.

    Returns:
        The folder of the engines.

    Raises:
        ProviderError: an engine could not be built.
        OSError: the cache cannot be written; `cache.alone` translates it.
    """
    with cache.building() as folder:
        started = time.monotonic()
        for number, profile in enumerate(profiles):
            place = profile_folder(folder, profile)
            place.mkdir()
            step = f"{number + 1} of {len(profiles)}"
            with reporting(variant, step, started, cache.estimate(weights)):
                _make_with_retry(cache, make, profile, place)
            if not (place / CONTEXT).is_file():
                raise ProviderError(
                    f"no engine was written for profile {profile} of {variant}, so TensorRT did not take the whole graph: "
                    "use the variant of the target cuda"
                )
        seconds = time.monotonic() - started
        published = cache.publish(folder, weights=weights, seconds=seconds)
    logger.info("engines built", extra={"fields": {"variant": variant, "seconds": round(seconds, 1)}})
    return published


def _make_with_retry(cache: EngineCache, make: Make, profile: int, place: Path) -> None:
    """Build an engine. After a failure, build again without earlier timings: TensorRT fails if their file is damaged."""
    had_timings = any(cache.timing.iterdir())
    try:
        make(profile, place, cache.timing)
    except FletcherError as error:
        if not had_timings or isinstance(error, DeviceMemoryError | DeviceLostError):
            raise
        logger.warning("build failed, building again without timings", extra={"fields": {"reason": str(error)}})
        cache.forget_timings()
        shutil.rmtree(place)
        place.mkdir()
        make(profile, place, cache.timing)


@contextlib.contextmanager
def reporting(
    variant: str, step: str, started: float, estimate: Estimate, interval: float = INTERVAL
) -> Iterator[None]:
    """Log the elapsed and the estimated seconds of a build every few seconds.

    ONNX Runtime releases the GIL during a build, so this thread and other threads of a server continue.

    Args:
        variant: name of the variant.
        step: number of the engine, as in `1 of 2`.
        started: start of the first engine's build, in seconds of `time.monotonic`.
        estimate: estimate for all engines.
        interval: seconds between two log messages.
    """
    done = threading.Event()

    def report() -> None:
        while True:
            fields = {
                "variant": variant,
                "engine": step,
                "elapsed_s": round(time.monotonic() - started, 1),
                "estimate_s": round(estimate.seconds, 1),
                "estimate_from": estimate.basis,
            }
            logger.info("building engines", extra={"fields": fields})
            if done.wait(interval):
                return

    thread = threading.Thread(target=report, name="fletcher-engines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class EngineWatch:
    """`EngineWatch`: counter of engine files that were written after a session was opened. It holds the engines."""

    def __init__(self, folder: Path) -> None:
        """Record the files of a folder.

        Args:
            folder: folder of engines.
        """
        self._folder = folder
        self._held = hold(folder / RECORD)
        self._initial = self._files()

    def close(self) -> None:
        """End the hold on the engines."""
        if self._held is not None:
            self._held.close()

    @property
    def written(self) -> int:
        """Number of files that are new or changed."""
        return sum(self._initial.get(name) != state for name, state in self._files().items())

    def _files(self) -> dict[str, tuple[int, int]]:
        states = {}
        for file in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the folder is being removed
                if file.is_file():
                    state = file.stat()
                    states[str(file.relative_to(self._folder))] = (state.st_mtime_ns, state.st_size)
        return states
