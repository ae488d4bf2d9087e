"""Headers of safetensors files.

Source of the format: the README of github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fletcher.runtime.errors import CheckpointError

from .stored import StoredTensor

__all__ = ["read_header"]

#: safetensors' names of the element types that a checkpoint's weights may have.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself


def read_header(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of a safetensors file, checked against its size; tied tensors come under each of their names.

    Source of the format: the README of github.com/huggingface/safetensors.

    Raises:
        CheckpointError: the file is truncated or malformed, or holds an element type that Fletcher does not read.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{file} is truncated or not a safetensors file: its header should have {length} bytes, "
                    f"the file has {size}. Fetch it again"
                )
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise CheckpointError(
                    f"{file}: the tensor {name} has the element type {entry['dtype']}, which Fletcher does not read"
                )
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if any(not isinstance(number, int) or number < 0 for number in (*shape, begin, end)):
                raise CheckpointError(
                    f"{file} is malformed: the tensor {name} of shape {shape} lies from byte {begin} to {end}"
                )
            if 8 + length + end > size:
                raise CheckpointError(
                    f"{file} is truncated: the tensor {name} should end at byte {8 + length + end}, "
                    f"the file has {size}. Fetch it again"
                )
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise CheckpointError(
                    f"{file} is malformed: the tensor {name} of shape {shape} has {end - begin} bytes"
                )
            stored = StoredTensor(name, shape, dtype, file, 8 + length + begin)
            yield stored
            # Tied weights are stored once; `safetensors.torch.save_model` notes their other names in the metadata.
            for alias, target in metadata.items():
                if target == name and alias not in header:
                    yield replace(stored, name=alias)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as a safetensors file: {error}. Fetch it again") from error
