"""`Calibration`: ranges and thresholds that encode vectors in a quarter (int8) or a thirty-second (binary) of float32's size.

The int8 code of an element is the index of its bin among 256 between the ends of its dimension's range, minus 128, as in
`quantize_embeddings(precision="int8", ranges=…)` of sentence-transformers. A bit is 1 if the element is above its dimension's
threshold. A code is decoded to the middle of its bin, and a bit to the sample's mean on that side of the threshold.
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

#: Fewest vectors of a sample: a range of fewer vectors does not contain the next ones.
FEWEST_VECTORS = 32

#: Steps between the ends of a range, as in sentence-transformers.
STEPS = 255

FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Calibration:
    """`Calibration`: ranges and thresholds, one value per dimension, float32, (dimension,).

    Attributes:
        low: lower end of the int8 range.
        step: width of a bin, above 0.
        threshold: an element above it has the bit 1.
        below: mean of the sample's elements that are not above the threshold.
        above: mean of the sample's elements that are above the threshold.
    """

    low: Vectors
    step: Vectors
    threshold: Vectors
    below: Vectors
    above: Vectors

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return len(self.low)


def learn(sample: Vectors, *, quantile: float = 0.0, centered: bool = False) -> Calibration:
    """Return the ranges and thresholds of a sample.

    Args:
        sample: vectors of texts like those that will be stored, (n, dimension).
        quantile: share of a dimension's elements that lie outside each end of its range; 0 takes the smallest and the
            largest element.
        centered: whether a threshold is the dimension's median, so that half of the bits are 1, instead of 0.

    Raises:
        InputError: there are too few vectors, a vector has NaN or infinity, or the quantile is not in [0, 0.5).
    """
    if sample.ndim != 2 or len(sample) < FEWEST_VECTORS:
        raise InputError(
            f"a calibration from vectors of shape {sample.shape} is not reliable: give at least {FEWEST_VECTORS} vectors"
        )
    if not np.isfinite(sample).all():
        raise InputError(
            "a vector of the sample has NaN or infinity: run `fletcher-convert model verify` on its artifact"
        )
    if not 0 <= quantile < 0.5:
        raise InputError(f"the quantile is {quantile}: give a value of at least 0 and below 0.5")
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
    """Return the mean of each dimension's chosen elements, (dimension,), or `otherwise` if none is chosen."""
    counts = chosen.sum(axis=0)
    sums = np.where(chosen, sample, 0).sum(axis=0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), otherwise).astype(np.float32)


def encode(vectors: Vectors, calibration: Calibration, code: CodeType) -> NDArray[np.int8] | NDArray[np.uint8]:
    """Encode vectors.

    Args:
        vectors: float32, (n, dimension).
        calibration: calibration of similar vectors.
        code: type of the codes.

    Returns:
        int8, (n, dimension); or uint8, (n, dimension / 8 rounded up), in which bit 7 of byte 0 belongs to element 0.

    Raises:
        InputError: the calibration has another dimension.
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
    """Decode the int8 codes or bits of `encode` to vectors, float32, (n, dimension)."""
    if codes.dtype == np.uint8:
        bits = np.unpackbits(codes.view(np.uint8), axis=1, count=calibration.dimension).astype(bool)
        return np.where(bits, calibration.above, calibration.below)
    middles = codes.astype(np.float32) + np.float32(128.5)
    decoded: Vectors = calibration.low + middles * calibration.step
    return decoded


def bytes_per_vector(dimension: int, code: CodeType) -> int:
    """Return the size of one stored vector."""
    return dimension if code == "int8" else -(-dimension // 8)


def save(calibration: Calibration, path: Path, notes: Mapping[str, str]) -> None:
    """Write a safetensors file. An interrupted write leaves the old file.

    Args:
        calibration: ranges and thresholds.
        path: the file.
        notes: origin of the calibration, as metadata: the artifact's digest, the number of vectors.
    """
    tensors = {name: getattr(calibration, name) for name in Calibration.__slots__}
    temporary = path.with_name(f".{path.name}.new")
    save_file(tensors, temporary, {**notes, "fletcher.vectors": FORMAT})
    temporary.chmod(0o644)  # safetensors creates files that only their owner can read
    temporary.replace(path)


def load(path: Path) -> Calibration:
    """Load a file of `save`.

    Raises:
        InputError: the file cannot be read, or is not a calibration.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the calibration {path} cannot be read: {error}") from error
    if set(tensors) != set(Calibration.__slots__) or len({tensor.shape for tensor in tensors.values()}) != 1:
        raise InputError(f"{path} is not a calibration of stored vectors: `fletcher-convert quantize sweep` writes one")
    return Calibration(**tensors)
