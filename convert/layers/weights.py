"""Comparison of every weight of the served graph with the checkpoint, bit for bit.

The expected weights are computed from the checkpoint as `export` computes them: transposed, joined, cut to a row, looked up
by distance. The stored weights are read by file, offset and length of each initializer of the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.errors import ArtifactError

from ..checkpoint.tensors import Weight
from ..precision import FLOATS
from .compare import Difference, compare_values
from .results import PointResult

__all__ = ["compare_weights"]

SURPLUS = "the checkpoint does not give this weight"

_DTYPES = {kind.onnx: kind.numpy for kind in FLOATS.values()}


def compare_weights(
    model: onnx.ModelProto, folder: Path, tables: Mapping[str, NDArray[Any]], expected: Mapping[str, Weight]
) -> Iterator[PointResult]:
    """Yield a result for each weight: tables of the host, weights in the order of use, then weights that the graph lacks.

    Args:
        model: the served graph, without its weights.
        folder: folder of its weights.
        tables: weights that the host looks up, by name.
        expected: weights that `export` would write, by name.

    Raises:
        ArtifactError: a weight cannot be read at the place that the graph gives.
    """
    external = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    used = dict.fromkeys(name for node in model.graph.node for name in node.input if name in external)
    for name, table in tables.items():
        yield _compare(name, table, expected) if name in expected else _unmatched(name, SURPLUS)
    for name in used:
        yield _compare(name, _read(external[name], folder), expected) if name in expected else _unmatched(name, SURPLUS)
    for name in expected:
        if name not in used and name not in tables:
            yield _unmatched(name, "no node of the graph uses it")


def _unmatched(name: str, note: str) -> PointResult:
    return PointResult(
        section="weights", point=f"weight {name}", key=f"weights/{name}", node=name, verdict="missing", note=note
    )


def _compare(name: str, stored: NDArray[Any], expected: Mapping[str, Weight]) -> PointResult:
    right = expected[name].load().astype(FLOATS[expected[name].precision].numpy)
    digest, right_digest = _digest(stored), _digest(right)
    difference, note = Difference(0.0, 0.0, 1.0), f"sha256 {digest[:16]}"
    equal = digest == right_digest and stored.shape == right.shape and stored.dtype == right.dtype
    if not equal:
        difference = compare_values(stored.astype(np.float32), right.astype(np.float32))
        note += f", the checkpoint's {right_digest[:16]}{_explain(stored, right, name, expected)}"
    return PointResult(
        section="weights",
        point=f"weight {name}",
        key=f"weights/{name}",
        node=name,
        shape=stored.shape,
        max_abs=difference.max_abs,
        relative=difference.relative,
        cosine=difference.cosine,
        verdict="passed" if equal else "failed",
        note=note,
    )


def _explain(stored: NDArray[Any], right: NDArray[Any], name: str, expected: Mapping[str, Weight]) -> str:
    """Return the cause of a difference, if it has another type, is transposed, or is another weight."""
    if stored.dtype != right.dtype:
        return f": it is {stored.dtype}, not {right.dtype}"
    if stored.ndim == 2 and np.array_equal(stored.reshape(stored.shape[::-1]).T, right):
        return ": it is transposed"
    for other, weight in expected.items():
        if (
            other != name
            and weight.shape == stored.shape
            and np.array_equal(weight.load().astype(stored.dtype), stored)
        ):
            return f": it is {other}"
    return ""


def _read(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    places = {entry.key: entry.value for entry in tensor.external_data}
    file = folder / places["location"]
    dtype, shape = _DTYPES.get(tensor.data_type), tuple(tensor.dims)
    if dtype is None:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ArtifactError(f"{file}: the weight {tensor.name} has the element type {kind}, which has no reference")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    start, length = int(places.get("offset", 0)), int(places.get("length", size))
    if length != size or start + length > file.stat().st_size:
        raise ArtifactError(
            f"{file}: the weight {tensor.name} of shape {shape} should have {size} bytes; the graph has {length} from "
            f"byte {start} of {file.stat().st_size}. Convert the checkpoint again"
        )
    return np.memmap(file, dtype, "r", start, shape) if size else np.zeros(shape, dtype)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
