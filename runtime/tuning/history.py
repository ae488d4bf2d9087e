"""Measurements of earlier loads, stored in one file per machine, artifact and variant."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.model_zoo.sources.cache import cache_folder

from ..machine import gpus
from ..machine.machine import this_machine
from ..providers.selection import all_providers, is_provider
from ..versions import installed_version
from .measurement import Measurement

__all__ = ["forget", "measuring_key", "recall", "remember"]

logger = logging.getLogger("fletcher.runtime.tuning.history")

#: Version of the files. Raise it when the meaning of a measurement changes.
MEASURING = 3


def measuring_key() -> str:
    """Return a hex digest of everything that affects a measurement of speed: machine, versions of engines, GPUs."""
    engines = dict.fromkeys(engine for provider in all_providers() for engine in provider.engines)
    versions = [f"{name} {version}" for name in engines if (version := installed_version(name))]
    parts = [this_machine().key, *versions, *(gpu.name for gpu in gpus.this_gpus().gpus)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def recall(machine: str, digest: str, variant: str) -> list[Measurement] | None:
    """Return the stored measurements of an artifact on a machine, or None if there are none or they cannot be used."""
    file = _file(machine, digest, variant)
    try:
        measurements = decode_json(file.read_bytes(), list[Measurement])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.info("measurements not read", extra={"fields": {"reason": str(error)}})
        return None
    if not measurements or not all(is_provider(one.layout.provider) for one in measurements):
        logger.info("measurements not read", extra={"fields": {"reason": f"{file} names no provider of this version"}})
        return None
    return measurements


def remember(machine: str, digest: str, variant: str, measurements: Sequence[Measurement]) -> None:
    """Store measurements for the next load, and log a failure to write them.

    If a layout failed to run, the measurements are not stored: the cause may be gone at the next load.
    """
    if any(one.failed for one in measurements):
        return
    file = _file(machine, digest, variant)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(msgspec.json.format(msgspec.json.encode(list(measurements))))
        temporary.replace(file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        logger.info("measurements not kept", extra={"fields": {"reason": str(error)}})


def forget(machine: str, digest: str, variant: str) -> None:
    """Remove stored measurements, and log a failure."""
    try:
        _file(machine, digest, variant).unlink(missing_ok=True)
    except OSError as error:
        logger.info("measurements not dropped", extra={"fields": {"reason": str(error)}})


def _file(machine: str, digest: str, variant: str) -> Path:
    return cache_folder(None) / "devices" / f"{machine}-{digest[:16]}-{variant}.{MEASURING}.json"
