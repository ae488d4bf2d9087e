"""Building of engines before a server is ready, with progress in the log."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import DeviceLostError, DeviceMemoryError, FletcherError, ProviderError
from .engine_cache import EngineCache, Estimate
from .options import CONTEXT

__all__ = ["EngineWatch", "Make", "build_engines", "profile_folder", "reporting"]

logger = logging.getLogger("fletcher.runtime.providers.tensorrt.engines")

#: Seconds between two lines of the log.
INTERVAL = 5.0

#: Builds one profile's engine into a folder and leaves `CONTEXT` there; the other folder is for what is measured of kernels.
Make = Callable[[int, Path, Path], None]


def profile_folder(folder: Path, profile: int) -> Path:
    """Return the folder of a profile's engine."""
    return folder / f"profile-{profile}"


def build_engines(cache: EngineCache, profiles: Sequence[int], make: Make, *, variant: str, weights: int) -> Path:
    """Build an engine for each profile, and publish them together. The caller holds `cache.alone`.

    Args:
        cache: where they go.
        profiles: which.
        make: builds one.
        variant: for the log.
        weights: bytes of the weights, for the estimate.

    Returns:
        The folder.

    Raises:
        ProviderError: an engine could not be built.
        OSError: the cache cannot be written; `cache.alone` translates it.
    """
    with cache.building() as folder:
        began = time.monotonic()
        for number, profile in enumerate(profiles):
            place = profile_folder(folder, profile)
            place.mkdir()
            step = f"{number + 1} of {len(profiles)}"
            with reporting(variant, step, began, cache.estimate(weights)):
                _make_once_more(cache, make, profile, place)
            if not (place / CONTEXT).is_file():
                raise ProviderError(
                    f"no engine was written for profile {profile} of {variant}, so the graph was not taken as a whole: "
                    "use the variant of the target cuda"
                )
        seconds = time.monotonic() - began
        published = cache.publish(folder, weights=weights, seconds=seconds)
    logger.info("engines built", extra={"fields": {"variant": variant, "seconds": round(seconds, 1)}})
    return published


def _make_once_more(cache: EngineCache, make: Make, profile: int, place: Path) -> None:
    """Build, and after a failure once more without earlier timings: TensorRT fails if that file is damaged."""
    had_timings = any(cache.timing.iterdir())
    try:
        make(profile, place, cache.timing)
    except FletcherError as error:
        if not had_timings or isinstance(error, DeviceMemoryError | DeviceLostError):
            raise
        logger.warning("build failed, once more without timings", extra={"fields": {"reason": str(error)}})
        cache.forget_timings()
        shutil.rmtree(place)
        place.mkdir()
        make(profile, place, cache.timing)


@contextlib.contextmanager
def reporting(variant: str, step: str, began: float, estimate: Estimate, interval: float = INTERVAL) -> Iterator[None]:
    """Log every few seconds how long a build has been under way, and how long it may take.

    ONNX Runtime releases the GIL while it builds, so that this thread and a server's others go on.

    Args:
        variant: what is built.
        step: which of its engines.
        began: when the first one began, by `time.monotonic`.
        estimate: of all of them.
        interval: seconds between two lines.
    """
    done = threading.Event()

    def report() -> None:
        while True:
            fields = {
                "variant": variant,
                "engine": step,
                "elapsed_s": round(time.monotonic() - began, 1),
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
    """Counter of engine files that were written after a session was opened."""

    def __init__(self, folder: Path) -> None:
        """Begin to watch a folder.

        Args:
            folder: whose files are watched, as they are now.
        """
        self._folder = folder
        self._seen = self._files()

    @property
    def written(self) -> int:
        """Files that are new or changed."""
        return sum(self._seen.get(name) != state for name, state in self._files().items())

    def _files(self) -> dict[str, tuple[int, int]]:
        states = {}
        for file in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a folder that is being removed
                if file.is_file():
                    state = file.stat()
                    states[str(file.relative_to(self._folder))] = (state.st_mtime_ns, state.st_size)
        return states
