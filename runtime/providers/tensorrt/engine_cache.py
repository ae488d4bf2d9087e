"""`EngineCache`: folder of the engines that TensorRT built, each for one GPU, driver, version, artifact and set of options.

engines/GPU-KEY/               engines of one key; complete, or missing
engines/GPU-KEY/record.json    the key, seconds of the build, and size and sha256 of each file
engines/timing-KEY/            TensorRT's measurements of kernels on this GPU, which builds of other artifacts reuse
engines/history.json           seconds of earlier builds, for estimates

This module knows neither TensorRT nor ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.model_zoo.sources.cache import cache_folder

from ...artifact.folder import hash_file
from ...artifact.manifest import FileInfo
from ...errors import ProviderError

__all__ = ["EngineCache", "EngineKey", "Estimate", "engines_folder"]

logger = logging.getLogger("fletcher.runtime.providers.tensorrt.engine_cache")

RECORD, HISTORY = "record.json", "history.json"
#: Largest number of builds in the history.
REMEMBERED = 100
#: Guess for a build without a history: seconds, and seconds per byte of weights.
GUESS, GUESS_PER_BYTE = 20.0, 0.2e-6


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """`EngineKey`: key of an engine: all properties for which the engine is valid.

    Attributes:
        provider: provider that built the engine.
        gpu: name of the GPU.
        memory: memory of the GPU in bytes, which affects the choice of kernels.
        capability: compute capability of the GPU.
        driver: version of the driver.
        onnxruntime: version of ONNX Runtime.
        tensorrt: version of TensorRT.
        artifact: digest of the artifact.
        variant: name of the variant.
        options: digest of all other options of the build, such as profiles.
    """

    provider: str
    gpu: str
    memory: int
    capability: tuple[int, int]
    driver: str
    onnxruntime: str
    tensorrt: str
    artifact: str
    variant: str
    options: str

    @property
    def name(self) -> str:
        """Name of the folder of the engines."""
        return f"{_readable(self.gpu)}-{self.variant}-{_digest(self)}"

    @property
    def kernels(self) -> str:
        """Name of the folder of kernel timings, which all artifacts share."""
        shared = msgspec.structs.replace(self, artifact="", variant="", options="", onnxruntime="")
        return f"timing-{_readable(self.gpu)}-{_digest(shared)}"


class Estimate(msgspec.Struct, frozen=True):
    """`Estimate`: estimated time of a build.

    Attributes:
        seconds: total seconds.
        basis: source of the number.
    """

    seconds: float
    basis: str


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """`_Record`: content of `record.json`."""

    key: EngineKey
    weights: int
    seconds: float
    files: dict[str, FileInfo]


class _Build(msgspec.Struct, frozen=True, kw_only=True):
    """`_Build`: entry of `history.json`."""

    key: EngineKey
    weights: int
    seconds: float


def engines_folder() -> Path:
    """Return the folder of all engines, in Fletcher's cache."""
    return cache_folder(None) / "engines"


class EngineCache:
    """`EngineCache`: engines of one key."""

    def __init__(self, root: Path, key: EngineKey) -> None:
        """Compute the folders of a key.

        Args:
            root: folder of all engines.
            key: key of the engines.
        """
        self._root = root
        self._key = key
        self.folder = root / key.name
        self.timing = root / key.kernels

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of this GPU's engines: processes must not build at the same time, or build an engine twice.

        Raises:
            ProviderError: a file of the cache cannot be read or written, by this method or in the body of the `with`
                statement.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with (self._root / f".{self._key.kernels}.lock").open("w") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    logger.info("waiting for another process's engines", extra={"fields": {"folder": str(self._root)}})
                    fcntl.flock(stream, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ProviderError(
                f"the folder of engines {self._root} cannot be written ({error.strerror or error}): free some space, or "
                "set FLETCHER_CACHE to another folder"
            ) from error

    def find(self) -> Path | None:
        """Return the folder if its engines are complete and have this key, else None. Log and remove a damaged folder."""
        if not self.folder.exists():
            return None
        problem = self._problem()
        if problem is None:
            return self.folder
        self.discard(problem)
        return None

    def discard(self, reason: str) -> None:
        """Remove engines that cannot be used, and log the reason. They are built again."""
        logger.warning("engines discarded", extra={"fields": {"folder": str(self.folder), "reason": reason}})
        shutil.rmtree(self.folder)

    def forget_timings(self) -> None:
        """Remove the timings of kernels: a damaged file can make a build fail."""
        shutil.rmtree(self.timing, ignore_errors=True)
        self.timing.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """Create a temporary folder for a build, which `publish` renames. Remove folders of builds that were killed.

        Yields:
            The folder.

        Raises:
            OSError: the folder cannot be written.
        """
        pattern = re.compile(rf"\.{re.escape(self._key.name)}\.new\.\w{{8}}")
        for entry in self._root.iterdir():
            if pattern.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
        self.timing.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{self._key.name}.new.", dir=self._root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, *, weights: int, seconds: float) -> Path:
        """Rename the folder of a build, so that `find` returns it.

        Args:
            folder: folder of `building`.
            weights: bytes of the weights.
            seconds: seconds of the build.

        Returns:
            The final folder.

        Raises:
            OSError: the folder cannot be written.
        """
        files = {
            str(file.relative_to(folder)): FileInfo(file.stat().st_size, hash_file(file))
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        record = _Record(key=self._key, weights=weights, seconds=seconds, files=files)
        (folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
        shutil.rmtree(self.folder, ignore_errors=True)
        folder.rename(self.folder)
        self._remember(_Build(key=self._key, weights=weights, seconds=seconds))
        return self.folder

    def estimate(self, weights: int) -> Estimate:
        """Return the time of the variant's last build, else an estimate from another build on this GPU, else a guess."""
        builds = self._history()
        for build in reversed(builds):
            if (build.key.artifact, build.key.variant) == (self._key.artifact, self._key.variant):
                return Estimate(build.seconds, f"the last build of this variant, on {build.key.gpu}")
        for build in reversed(builds):
            if build.key.gpu == self._key.gpu and build.weights:
                return Estimate(
                    build.seconds / build.weights * weights, "another build on this GPU, by size of weights"
                )
        return Estimate(
            GUESS + GUESS_PER_BYTE * weights, "a guess from the size of the weights, without an earlier build"
        )

    def _problem(self) -> str | None:
        """Return the reason why the stored engines cannot be used, or None."""
        try:
            record = decode_json((self.folder / RECORD).read_bytes(), _Record)
            if record.key != self._key:
                return "they have another key"
            for name, info in record.files.items():
                file = self.folder / name
                if file.stat().st_size != info.size or hash_file(file) != info.sha256:
                    return f"{name} was changed after it was written"
        except OSError as error:
            return f"{error.filename or RECORD} cannot be read: {error.strerror}"
        except msgspec.DecodeError as error:
            return f"{RECORD} is damaged: {error}"
        return None

    def _history(self) -> list[_Build]:
        try:
            return decode_json((self._root / HISTORY).read_bytes(), list[_Build])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:  # only estimates need it
            logger.info("history of builds not read", extra={"fields": {"reason": str(error)}})
            return []

    def _remember(self, build: _Build) -> None:
        data = msgspec.json.format(msgspec.json.encode([*self._history(), build][-REMEMBERED:]), indent=2)
        temporary = self._root / f".{HISTORY}.{os.getpid()}"
        temporary.write_bytes(data)
        temporary.replace(self._root / HISTORY)


def _digest(key: EngineKey) -> str:
    return hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:16]


def _readable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
