"""Stored vectors at a quarter (int8) and a thirty-second (binary) of float32's size, calibrated on a sample.

The int8 code of an element is the number of its bin among 256 between the ends of its dimension's range, less 128, as
sentence-transformers' `quantize_embeddings(precision="int8", ranges=…)` counts them; a bit says whether an element lies above
its dimension's threshold. A code is decoded to the middle of its bin, a bit to the mean of the sample on that side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fletcher.runtime.errors import InputError

__all__ = [
    "CODES",
    "FEWEST_VECTORS",
    "Calibration",
    "CodeType",
    "bytes_per_vector",
    "decode",
    "encode",
    "learn",
    "load",
    "save",
]

Vectors = NDArray[np.float32]
CodeType = Literal["int8", "binary"]
CODES: tuple[CodeType, ...] = get_args(CodeType)

#: A range learned from fewer is cut short by the next text.
FEWEST_VECTORS = 32

#: sentence-transformers' number of steps between the ends of a range.
STEPS = 255

FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learned, a value a dimension, float32, (dimension,).

    Attributes:
        low: where the int8 range begins.
        step: width of a bin, above 0.
        threshold: elements above it have the bit 1.
        below: mean of the sample's elements that are not above.
        above: mean of those that are.
    """

    low: Vectors
    step: Vectors
    threshold: Vectors
    below: Vectors
    above: Vectors

    @property
    def dimension(self) -> int:
        return len(self.low)


def learn(sample: Vectors, *, quantile: float = 0.0, centered: bool = False) -> Calibration:
    """Learns ranges and thresholds.

    Args:
        sample: vectors of texts like those that will be stored, (n, dimension).
        quantile: share of a dimension's elements that may fall off each end of its range; 0 takes the smallest and largest.
        centered: thresholds at each dimension's median, so that each bit is 1 half of the time, instead of 0.

    Raises:
        InputError: too few vectors, one with NaN or infinity, or a quantile that leaves nothing.
    """
    if sample.ndim != 2 or len(sample) < FEWEST_VECTORS:
        raise InputError(
            f"a calibration from vectors of shape {sample.shape} is not to be trusted: give at least {FEWEST_VECTORS} vectors"
        )
    if not np.isfinite(sample).all():
        raise InputError("a vector of the sample holds NaN or infinity: verify the artifact that made it")
    if not 0 <= quantile < 0.5:
        raise InputError(f"the quantile is {quantile}, and must be at least 0 and below 0.5")
    low, high = np.quantile(sample, [quantile, 1 - quantile], axis=0).astype(np.float32)
    step = (high - low) / np.float32(STEPS)
    threshold = np.median(sample, axis=0) if centered else np.zeros(sample.shape[1], np.float32)
    threshold = threshold.astype(np.float32)
    bits = sample > threshold
    return Calibration(
        low=low,
        step=np.where(step > 0, step, np.float32(1)),
        threshold=threshold,
        below=_mean(sample, ~bits, threshold),
        above=_mean(sample, bits, threshold),
    )


def _mean(sample: Vectors, chosen: NDArray[np.bool_], otherwise: Vectors) -> Vectors:
    """Of each dimension's chosen elements, (dimension,); where none is, another value."""
    counts = chosen.sum(axis=0)
    sums = np.where(chosen, sample, 0).sum(axis=0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), otherwise).astype(np.float32)


def encode(vectors: Vectors, calibration: Calibration, code: CodeType) -> NDArray[np.int8] | NDArray[np.uint8]:
    """Vectors to codes.

    Args:
        vectors: float32, (n, dimension).
        calibration: of vectors like these.
        code: which.

    Returns:
        int8, (n, dimension); or uint8, (n, dimension / 8 rounded up), where bit 7 of byte 0 belongs to element 0.

    Raises:
        InputError: the calibration is for another dimension.
    """
    if vectors.ndim != 2 or vectors.shape[1] != calibration.dimension:
        raise InputError(
            f"vectors of shape {vectors.shape} do not fit a calibration of {calibration.dimension} dimensions"
        )
    if code == "binary":
        return np.packbits(vectors > calibration.threshold, axis=1)
    bins = np.floor((vectors - calibration.low) / calibration.step)
    codes: NDArray[np.int8] = (np.clip(bins, 0, STEPS) - 128).astype(np.int8)
    return codes


def decode(codes: NDArray[np.int8] | NDArray[np.uint8], calibration: Calibration) -> Vectors:
    """Codes to vectors, float32, (n, dimension): int8 codes and bits, as `encode` made them."""
    if codes.dtype == np.uint8:
        bits = np.unpackbits(codes.view(np.uint8), axis=1, count=calibration.dimension).astype(bool)
        return np.where(bits, calibration.above, calibration.below)
    middles = codes.astype(np.float32) + np.float32(128.5)
    decoded: Vectors = calibration.low + middles * calibration.step
    return decoded


def bytes_per_vector(dimension: int, code: CodeType) -> int:
    """What one stored vector takes."""
    return dimension if code == "int8" else -(-dimension // 8)


def save(calibration: Calibration, path: Path, notes: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
        calibration: what to keep.
        path: the file.
        notes: where it comes from (the artifact's digest, how many vectors).
    """
    tensors = {name: getattr(calibration, name) for name in Calibration.__slots__}
    temporary = path.with_name(f".{path.name}.new")
    save_file(tensors, temporary, {**notes, "fletcher.vectors": FORMAT})
    temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    temporary.replace(path)


def load(path: Path) -> Calibration:
    """Reads what `save` wrote.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the calibration {path} cannot be read: {error}") from error
    if set(tensors) != set(Calibration.__slots__) or len({tensor.shape for tensor in tensors.values()}) != 1:
        raise InputError(f"{path} is no calibration of stored vectors: `fletcher-convert quantize sweep` writes one")
    return Calibration(**tensors)
