"""Weights of an artifact: taken from a checkpoint once, checked, and transformed when they are written.

A `Weight` holds a function that reads an array. Nothing is read before the artifact's weights file is written, one tensor at
a time and large ones a part at a time, so that the peak memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import CheckpointError

from ..precision import Float
from .checkpoint import Checkpoint
from .weights.stored import StoredTensor

__all__ = [
    "Adapter",
    "Linear",
    "Norm",
    "NormKind",
    "TensorReader",
    "Weight",
    "concatenate",
    "constant",
    "interleave_heads",
    "pair_columns",
]

#: `layer_norm` subtracts the mean and divides by the standard deviation; `rms_norm` divides by the root mean square alone.
NormKind = Literal["layer_norm", "rms_norm"]

#: Rows that are transposed at once: 16 float32 fill a cache line of the result. That is 3 to 10 times as fast as all at once.
STRIP = 16

#: Elements of a large tensor that are read at once: 16 MB in float32. glibc keeps memory of blocks below 32 MB for the next
#: block, and maps a larger one anew each time, whose pages the kernel has to clear.
PART = 4 << 20


@dataclass(frozen=True, slots=True)
class Weight:
    """Float array that is read when it is written. Weights of one name are the same weight.

    Attributes:
        name: name in the graph and in the artifact's weights file.
        shape: its shape.
        load: function that reads it, in float32.
        precision: element type in which it is written.
        stream: function that reads it a part at a time, as arrays of consecutive elements, for weights that can be large. A
            weight made from another one needs one of its own, or None.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[np.float32]] = field(compare=False)
    precision: Float = "fp32"
    stream: Callable[[], Iterator[NDArray[np.float32]]] | None = field(default=None, compare=False)

    def parts(self) -> Iterator[NDArray[np.float32]]:
        """Yield its elements in their order, in float32, with as little memory as it allows.

        Raises:
            CheckpointError: the tensor is not a float tensor, or holds NaN or infinity.
        """
        if self.stream is not None:
            yield from self.stream()
            return
        values = self.load()
        if values.shape != self.shape:
            raise ValueError(f"the weight {self.name} should have shape {self.shape}, and has {values.shape}")
        yield values

    def renamed(self, prefix: str) -> Weight:
        """Return the same weight as `PREFIX.NAME`."""
        return replace(self, name=f"{prefix}.{self.name}")


@dataclass(frozen=True, slots=True)
class Adapter:
    """Products of small rank for several tasks: (x · down, where the columns of other tasks are zeros) · up.

    Attributes:
        down: (in, tasks · rank), or for a table a row for each entry.
        up: (tasks · rank, out), with the factor of the adapter.
    """

    down: Weight
    up: Weight


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear map: y = x · weight + bias.

    Attributes:
        weight: (in, out); checkpoints store its transpose.
        bias: (out,), if it has one.
        adapter: what the task of a text adds to the product, if there is such a choice.
    """

    weight: Weight
    bias: Weight | None
    adapter: Adapter | None = None

    def renamed(self, prefix: str) -> Linear:
        """Return the same weights under `PREFIX.`."""
        return Linear(self.weight.renamed(prefix), self.bias and self.bias.renamed(prefix))


@dataclass(frozen=True, slots=True)
class Norm:
    """Norm over the last axis.

    Attributes:
        weight: (hidden,).
        bias: (hidden,), if it has one.
        epsilon: number added to the variance, or to the mean square.
        kind: kind of the norm.
    """

    weight: Weight
    bias: Weight | None
    epsilon: float
    kind: NormKind = "layer_norm"

    def renamed(self, prefix: str) -> Norm:
        """Return the same weights under `PREFIX.`."""
        return replace(self, weight=self.weight.renamed(prefix), bias=self.bias and self.bias.renamed(prefix))


class TensorReader:
    """Reader of tensors by name and shape that records which tensors were taken; `finish` refuses the others."""

    def __init__(self, checkpoint: Checkpoint, prefixes: Sequence[str]) -> None:
        """Create a reader.

        Args:
            checkpoint: checkpoint with the tensors.
            prefixes: prefixes that all names may have, such as `bert.` for a model saved with a task's head; the first one
                that a tensor has is removed.
        """
        self._checkpoint = checkpoint
        self._tensors = dict(checkpoint.tensors)
        self._prefix = next((p for p in prefixes if any(name.startswith(p) for name in self._tensors)), "")
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether the checkpoint has a tensor of that name, without the prefix."""
        return self._prefix + name in self._tensors

    def take(self, name: str, shape: tuple[int, ...], *, aliases: Sequence[str] = ()) -> Weight:
        """Return a tensor as it is stored.

        Args:
            name: name without the prefix.
            shape: shape that the configuration implies.
            aliases: older names of the same tensor.

        Raises:
            CheckpointError: the tensor is missing, or has another shape.
        """
        stored = self._find(name, shape, aliases)
        return Weight(name, shape, lambda: _as_float32(stored), stream=partial(_parts, stored))

    def row(self, name: str, shape: tuple[int, ...], index: int) -> Weight:
        """Return one row of a table, as `NAME.INDEX`."""
        stored = self._find(name, shape, ())
        return Weight(f"{name}.{index}", shape[1:], lambda: _as_float32(stored)[index])

    def products(self, name: str, count: int, shape: tuple[int, int], *, transposed: bool) -> tuple[Linear, ...]:
        """Return several products without biases that are stored in one tensor, one above the other, as `NAME.INDEX`.

        Args:
            name: name of the tensor.
            count: number of products.
            shape: shape of each one as it is stored.
            transposed: whether the products are the transposes of what is stored.
        """
        rows, columns = shape
        stored = self._find(name, (count * rows, columns), ())
        read = _transposed if transposed else _as_float32
        return tuple(
            Linear(
                Weight(
                    f"{name}.{index}",
                    shape[::-1] if transposed else shape,
                    partial(read, stored, slice(index * rows, (index + 1) * rows)),
                ),
                None,
            )
            for index in range(count)
        )

    def linear(self, name: str, num_in: int, num_out: int, *, bias: bool = True) -> Linear:
        """Return the product of `NAME.weight` (out, in), transposed, and `NAME.bias`."""
        stored = self._find(f"{name}.weight", (num_out, num_in), ())
        weight = Weight(
            f"{name}.weight",
            (num_in, num_out),
            partial(_transposed, stored),
            stream=partial(_transposed_parts, stored),
        )
        return Linear(weight, self.take(f"{name}.bias", (num_out,)) if bias else None)

    def linears(self, name: str, num_in: int, parts: Mapping[str, int], *, bias: bool = True) -> tuple[Linear, ...]:
        """Return several products that are stored in one tensor, one above the other, as `NAME.PART`.

        Args:
            name: name of the tensors, without `.weight` and `.bias`.
            num_in: width of the input.
            parts: width of each output, in the order of the tensor's rows.
            bias: whether `NAME.bias` exists.
        """
        total = sum(parts.values())
        weight = self._find(f"{name}.weight", (total, num_in), ())
        biases = self._find(f"{name}.bias", (total,), ()) if bias else None
        linears, start = [], 0
        for part, size in parts.items():
            rows = slice(start, start + size)
            matrix = Weight(f"{name}.{part}.weight", (num_in, size), partial(_transposed, weight, rows))
            vector = (
                None if biases is None else Weight(f"{name}.{part}.bias", (size,), partial(_as_float32, biases, rows))
            )
            linears.append(Linear(matrix, vector))
            start += size
        return tuple(linears)

    def norm(self, name: str, size: int, epsilon: float, *, bias: bool = True) -> Norm:
        """Return the layer norm of `NAME.weight` and `NAME.bias`, or of TensorFlow's old `gamma` and `beta`."""
        weight = self.take(f"{name}.weight", (size,), aliases=(f"{name}.gamma",))
        return Norm(weight, self.take(f"{name}.bias", (size,), aliases=(f"{name}.beta",)) if bias else None, epsilon)

    def ignore(self, *prefixes: str) -> None:
        """Mark every tensor whose name, with or without the prefix, begins so as known and not needed."""
        for name in self._tensors:
            if name.removeprefix(self._prefix).startswith(prefixes) or name.startswith(prefixes):
                self._taken.add(name)

    def finish(self, *within: str) -> None:
        """Refuse a checkpoint with tensors that were not taken.

        Args:
            within: beginnings of the names to check. Default: all names.

        Raises:
            CheckpointError: a tensor was not taken, so a part of the computation is unknown.
        """
        surplus = sorted(name for name in set(self._tensors) - self._taken if name.startswith(within or ("",)))
        if surplus:
            more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
            raise CheckpointError(
                f"{self._checkpoint.folder} holds tensors that the architecture "
                f"{self._checkpoint.config.get('model_type')!r} of config.json does not use: {', '.join(surplus[:5])}{more}. "
                "Fletcher converts nothing that it does not fully understand"
            )

    def _find(self, name: str, shape: tuple[int, ...], aliases: Sequence[str]) -> StoredTensor:
        for candidate in (name, *aliases):
            stored = self._tensors.get(self._prefix + candidate)
            if stored is None:
                continue
            self._taken.add(stored.name)
            if stored.shape != shape:
                raise CheckpointError(
                    f"{stored.file}: the tensor {stored.name} has shape {stored.shape}, config.json implies {shape}"
                )
            return stored
        raise CheckpointError(
            f"{self._checkpoint.folder} lacks the tensor {self._prefix}{name} of shape {shape}, which config.json implies"
        )


def concatenate(name: str, weights: Sequence[Weight], axis: int) -> Weight:
    """Return several weights, joined along an axis, as one.

    Args:
        name: the new name.
        weights: of the same shape except along `axis`.
        axis: which one to join along.
    """
    axis %= len(weights[0].shape)
    total = sum(weight.shape[axis] for weight in weights)
    shape = (*weights[0].shape[:axis], total, *weights[0].shape[axis + 1 :])
    return Weight(name, shape, lambda: np.concatenate([weight.load() for weight in weights], axis))


def interleave_heads(name: str, weights: Sequence[Weight], head_size: int) -> Weight:
    """Return weights sorted by heads: query, key and value of the first head, then those of the second.

    Args:
        name: name of the new weight.
        weights: (in, heads · head_size) each.
        head_size: width of a head.

    Returns:
        (in, heads · weights · head_size).
    """
    num_in, width = weights[0].shape

    def load() -> NDArray[np.float32]:
        parts = [weight.load().reshape(num_in, -1, head_size) for weight in weights]
        return np.stack(parts, axis=2).reshape(num_in, len(weights) * width)

    return Weight(name, (num_in, len(weights) * width), load)


def pair_columns(weight: Weight, head_size: int) -> Weight:
    """Return the weights of a query or key with the pairs of a rotation side by side: in each head 0, half, 1, half + 1, …

    Args:
        weight: (in, heads · head_size), or a bias, (heads · head_size,).
        head_size: width of a head.
    """
    leading = weight.shape[:-1]

    def load() -> NDArray[np.float32]:
        halves = weight.load().reshape(*leading, -1, 2, head_size // 2)
        return np.ascontiguousarray(np.swapaxes(halves, -1, -2)).reshape(weight.shape)

    return Weight(f"{weight.name}.pairs", weight.shape, load)


def constant(name: str, array: NDArray[Any]) -> Weight:
    """Return a weight with given values."""
    values = np.ascontiguousarray(array, np.float32)
    return Weight(name, values.shape, lambda: values)


def _transposed(stored: StoredTensor, rows: slice = slice(None)) -> NDArray[np.float32]:
    """Return the transpose of a matrix, or of some of its rows, in float32, copied in strips of `STRIP` rows."""
    matrix = _floats(stored)[rows]
    result = np.empty(matrix.shape[::-1], np.float32)
    for first in range(0, len(matrix), STRIP):
        strip = slice(first, first + STRIP)
        result[:, strip] = _finite(stored, matrix[strip]).T
    return result


def _transposed_parts(stored: StoredTensor) -> Iterator[NDArray[np.float32]]:
    """Yield rows of the transpose of a matrix, about `PART` elements at a time."""
    rows, columns = stored.shape
    step = max(1, PART // max(1, rows))
    if step >= columns:
        yield _transposed(stored)
        return
    for first in range(0, columns, step):
        matrix = _floats(stored)[:, first : first + step]  # mapped anew, because pages stay as long as their mapping
        result = np.empty(matrix.shape[::-1], np.float32)
        for start in range(0, rows, STRIP):
            strip = slice(start, start + STRIP)
            result[:, strip] = _finite(stored, matrix[strip]).T
        yield result


def _parts(stored: StoredTensor) -> Iterator[NDArray[np.float32]]:
    """Yield the elements of a tensor in float32, `PART` at a time."""
    _floats(stored)
    for part in stored.parts(PART):
        yield _finite(stored, part)


def _as_float32(stored: StoredTensor, rows: slice = slice(None)) -> NDArray[np.float32]:
    """Return the values of a tensor, or of some of its rows, in float32.

    Raises:
        CheckpointError: the tensor is not a float tensor, or holds NaN or infinity.
    """
    return _finite(stored, _floats(stored)[rows])


def _floats(stored: StoredTensor) -> NDArray[Any]:
    """Return a tensor as it is stored.

    Raises:
        CheckpointError: it is not a float tensor.
    """
    if stored.dtype.kind in "iub":
        raise CheckpointError(
            f"{stored.file}: the tensor {stored.name} has the element type {stored.dtype}, not a float type"
        )
    return stored.read()


def _finite(stored: StoredTensor, part: NDArray[Any]) -> NDArray[np.float32]:
    """Return a part of a tensor in float32.

    Raises:
        CheckpointError: the part holds NaN or infinity.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is infinite, and found below
        values = np.asarray(part).astype(np.float32, copy=False)
        # A sum is finite unless an element is not (or, for weights near 1e38, by overflow: then look at each).
        finite = bool(np.isfinite(np.sum(values))) or bool(np.isfinite(values).all())
    if not finite:
        raise CheckpointError(
            f"{stored.file}: the tensor {stored.name} holds NaN or infinity: the checkpoint is damaged"
        )
    return values
