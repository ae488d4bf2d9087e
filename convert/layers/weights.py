"""Every weight of the graph that is served against the checkpoint, bit for bit, through the family's mapping.

The expected weights are made from the checkpoint as `export` makes them: transposed, joined, cut to a row, looked up by
distance. The found ones are read where the graph says that they lie: file, offset and length of each initializer.
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

SURPLUS = "nothing in the checkpoint gives this weight"

_DTYPES = {kind.onnx: kind.numpy for kind in FLOATS.values()}


def compare_weights(
    model: onnx.ModelProto, folder: Path, tables: Mapping[str, NDArray[Any]], expected: Mapping[str, Weight]
) -> Iterator[PointResult]:
    """One result a weight: tables of the host, then in the order in which the graph uses them; then those that it lacks.

    Args:
        model: the served graph, without its weights.
        folder: where its weights lie.
        tables: weights that the host looks up, by name.
        expected: what `export` would write, by name.

    Raises:
        ArtifactError: the weights cannot be read where the graph says that they lie.
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


def _compare(name: str, found: NDArray[Any], expected: Mapping[str, Weight]) -> PointResult:
    wanted = expected[name].load().astype(FLOATS[expected[name].precision].numpy)
    digest, wanted_digest = _digest(found), _digest(wanted)
    difference, note = Difference(0.0, 0.0, 1.0), f"sha256 {digest[:16]}"
    equal = digest == wanted_digest and found.shape == wanted.shape and found.dtype == wanted.dtype
    if not equal:
        difference = compare_values(found.astype(np.float32), wanted.astype(np.float32))
        note += f", the checkpoint's {wanted_digest[:16]}{_explain(found, wanted, name, expected)}"
    return PointResult(
        section="weights",
        point=f"weight {name}",
        key=f"weights/{name}",
        node=name,
        shape=found.shape,
        max_abs=difference.max_abs,
        relative=difference.relative,
        cosine=difference.cosine,
        verdict="passed" if equal else "failed",
        note=note,
    )


def _explain(found: NDArray[Any], wanted: NDArray[Any], name: str, expected: Mapping[str, Weight]) -> str:
    """What went wrong with a weight, where that can be seen."""
    if found.dtype != wanted.dtype:
        return f": it is {found.dtype}, not {wanted.dtype}"
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
