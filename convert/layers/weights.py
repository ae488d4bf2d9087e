"""Every weight of the graph that is served against the checkpoint, bit for bit, through the family's mapping.

The expected weights are made from the checkpoint as `export` makes them: transposed, joined, cut to a row, looked up by
distance. The found ones are read where the graph says that they lie: file, offset and length of each initializer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.errors import ArtifactError

from ..weights import Weight
from .compare import compare_values
from .results import PointResult

__all__ = ["compare_weights"]

#: Ends of the names of weights that lie in a file of another precision.
PRECISIONS = ("fp32", "fp16", "bf16")

_DTYPES: Mapping[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


def compare_weights(model: onnx.ModelProto, folder: Path, expected: Mapping[str, Weight]) -> Iterator[PointResult]:
    """One result a weight, in the order in which the graph uses them; then those that the graph lacks.

    Args:
        model: the served graph, without its weights.
        folder: where its weights lie.
        expected: by name, see `GraphBuilder.weights`.

    Raises:
        ArtifactError: the weights cannot be read where the graph says that they lie.
    """
    external = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    used = dict.fromkeys(name for node in model.graph.node for name in node.input if name in external)
    for name in used:
        if _plain(name) in expected:
            yield _compare(external[name], folder, _plain(name), expected)
        else:
            yield _unmatched(name, "nothing in the checkpoint gives this weight")
    plain = {_plain(name) for name in used}
    for name in expected:
        if name not in plain:
            yield _unmatched(name, "no node of the graph uses it")


def _plain(name: str) -> str:
    """A weight's name without the element type that it has besides the graph's own."""
    stem, _, last = name.rpartition(".")
    return stem if last in PRECISIONS else name


def _unmatched(name: str, note: str) -> PointResult:
    return PointResult(
        section="weights", point=f"weight {name}", key=f"weights/{name}", node=name, verdict="missing", note=note
    )


def _compare(tensor: onnx.TensorProto, folder: Path, plain: str, expected: Mapping[str, Weight]) -> PointResult:
    found = _read(tensor, folder)
    wanted = expected[plain].load().astype(found.dtype)
    digest, wanted_digest = _digest(found), _digest(wanted)
    if digest == wanted_digest and found.shape == wanted.shape:
        difference, verdict, note = compare_values(np.zeros(1, np.float32), np.zeros(1, np.float32)), True, ""
    else:
        difference = compare_values(found.astype(np.float32), wanted.astype(np.float32))
        verdict, note = False, f", the checkpoint's {wanted_digest[:16]}{_explain(found, wanted, plain, expected)}"
    return PointResult(
        section="weights",
        point=f"weight {tensor.name}",
        key=f"weights/{tensor.name}",
        node=tensor.name,
        shape=found.shape,
        max_abs=difference.max_abs,
        relative=difference.relative,
        cosine=difference.cosine,
        verdict="passed" if verdict else "failed",
        note=f"sha256 {digest[:16]}{note}",
    )


def _explain(found: NDArray[Any], wanted: NDArray[Any], name: str, expected: Mapping[str, Weight]) -> str:
    """What went wrong with a weight, where that can be seen."""
    if found.ndim == 2 and np.array_equal(found.reshape(found.shape[::-1]).T, wanted):
        return ": it is transposed"
    for other, weight in expected.items():
        if other != name and weight.shape == found.shape and np.array_equal(weight.load().astype(found.dtype), found):
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
            f"{file}: the weight {tensor.name} of shape {shape} should have {size} bytes; the graph says {length} from "
            f"byte {start} of {file.stat().st_size}. Convert the checkpoint again"
        )
    return np.memmap(file, dtype, "r", start, shape) if size else np.zeros(shape, dtype)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
