"""`EngineCache`: folder of the engines that TensorRT built, each for one GPU, driver, version, artifact and set of options.

engines/GPU-KEY/           one key's engines: whole, or not there
engines/GPU-KEY/record.json    the key, what building took, and size and sha256 of each file
engines/timing-KEY/        what TensorRT measured of its kernels on this GPU; other artifacts' builds reuse it
engines/history.json       what builds took, for estimates

It knows neither TensorRT nor ONNX Runtime.
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
#: Builds that are remembered.
REMEMBERED = 100
#: What a build takes where none was seen yet, in seconds, and in seconds for each byte of weights: a guess, and named so.
GUESS, GUESS_PER_BYTE = 20.0, 0.2e-6


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """Key of an engine: all that it is valid for.

    Attributes:
        provider: who built it.
        gpu: the GPU's name.
        memory: its memory in bytes: kernels are chosen by it.
        capability: its compute capability.
        driver: the driver's version.
        onnxruntime: version.
        tensorrt: version.
        artifact: digest of the artifact.
        variant: its variant.
        options: digest of the builder's other options, profiles above all.
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
        """Name of its folder."""
        return f"{_readable(self.gpu)}-{self.variant}-{_digest(self)}"

    @property
    def kernels(self) -> str:
        """Name of the folder of timings, which all artifacts share."""
        shared = msgspec.structs.replace(self, artifact="", variant="", options="", onnxruntime="")
        return f"timing-{_readable(self.gpu)}-{_digest(shared)}"


class Estimate(msgspec.Struct, frozen=True):
    """Estimate of the time that a build takes.

    Attributes:
        seconds: in all.
        basis: where the number comes from.
    """

    seconds: float
    basis: str


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: EngineKey
    weights: int
    seconds: float
    files: dict[str, FileInfo]


class _Build(msgspec.Struct, frozen=True, kw_only=True):
    key: EngineKey
    weights: int
    seconds: float


def engines_folder() -> Path:
    """Return the folder of all engines: beside the downloads."""
    return cache_folder(None) / "engines"


class EngineCache:
    """Engines of one key."""

    def __init__(self, root: Path, key: EngineKey) -> None:
        """Name the folders of a key.

        Args:
            root: the folder of all engines.
            key: whose.
        """
        self._root = root
        self._key = key
        self.folder = root / key.name
        self.timing = root / key.kernels

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process looks for, or builds, engines of this GPU: one build at a time, and never twice.

        Raises:
            ProviderError: a file of the cache cannot be read or written, then or in the caller's body.
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
        """Return the folder if its engines are whole and of this key, else None. A damaged one is logged and removed."""
        if not self.folder.exists():
            return None
        problem = self._problem()
        if problem is None:
            return self.folder
        self.discard(problem)
        return None

    def discard(self, reason: str) -> None:
        """Remove engines that cannot be used, and log why. They are built again."""
        logger.warning("engines discarded", extra={"fields": {"folder": str(self.folder), "reason": reason}})
        shutil.rmtree(self.folder)

    def forget_timings(self) -> None:
        """Remove the timings of kernels: a damaged file may be why a build fails."""
        shutil.rmtree(self.timing, ignore_errors=True)
        self.timing.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """Give a new folder to build in; `publish` gives it its name. What killed builders left is removed first.

        Raises:
            OSError: the folder cannot be written.
        """
        pattern = re.compile(rf"\.{re.escape(self._key.name)}\.new\.\w{{8}}")
        for left in self._root.iterdir():
            if pattern.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)
        self.timing.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{self._key.name}.new.", dir=self._root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, *, weights: int, seconds: float) -> Path:
        """Give a built folder its name: from now on `find` returns it.

        Args:
            folder: of `building`.
            weights: bytes of the weights.
            seconds: that building took.

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
        """Estimate a build of this key: as the last one of this variant, as the last ones per byte, or a guess."""
        builds = self._history()
        for build in reversed(builds):
            if (build.key.artifact, build.key.variant) == (self._key.artifact, self._key.variant):
                return Estimate(build.seconds, f"the last build of this variant, on {build.key.gpu}")
        for build in reversed(builds):
            if build.key.gpu == self._key.gpu and build.weights:
                return Estimate(build.seconds / build.weights * weights, "another build on this GPU, by weights")
        return Estimate(GUESS + GUESS_PER_BYTE * weights, "a guess from the weights' size: no build was seen yet")

    def _problem(self) -> str | None:
        try:
            record = decode_json((self.folder / RECORD).read_bytes(), _Record)
            if record.key != self._key:
                return "they are of another key"
            for name, info in record.files.items():
                file = self.folder / name
                if file.stat().st_size != info.size or hash_file(file) != info.sha256:
                    return f"{name} is not what was written"
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
        except (OSError, msgspec.DecodeError) as error:  # only estimates suffer
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
