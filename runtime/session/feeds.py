"""Inputs of a graph, made from a batch. The name of an input defines its content, for all targets.

A graph declares the inputs that it needs, and the host makes them, so that graphs for devices do not compute positions of
tokens. The inputs are index arithmetic over small integers. Padding comes after the tokens of a text.

==============================  ==========================  ==========================================================
input                           shape                       content
==============================  ==========================  ==========================================================
`input_ids`                     (tokens,)                   token ids, all texts in a row
`input_ids`                     (texts, longest)            the same in a rectangle; padding is 0
`token_type_ids`                as `input_ids`              0 for tokens of the first text of a pair, 1 for the second
`text_tasks`                    (texts,)                    number of each text's task or route; 0 for a row without a text
`task_ids`                      (tokens,)                   the same for each token
`offsets`                       (texts + 1,)                start of each text, and end of the last one
`cumulative_sequence_length`    (texts + 1,)                the same, under the name of ONNX Runtime
`token_offset`                  (texts, longest)            places in the rectangle: tokens in order, then padding
`position_ids`                  as `input_ids`              rows of the table of learned positions
`positions`                     as `input_ids`              0, 1, 2, … in each text
`attention_mask`                (texts, longest)            1 for a token, 0 for padding and for `FeedRules.unseen_tail`
`seen_tokens`                   (tokens,)                   1 for a token, 0 for `FeedRules.unseen_tail`
`last_positions`                (texts,)                    position of the last token of each text
`total_sequence_length`         ()                          the longest text of the batch, in memory of the host
`steps`                         (longest,)                  0, 1, 2, … up to the last token; a longer array repeats it
`around.SIZE`                   as `input_ids`, SIZE        1 + row or cell of the SIZE tokens around each one; 0 for none
`first_rows`                    (tokens,)                   packed row of each token; of a first token, the text's number
                                                            behind all rows
`rectangle`                     (texts, longest)            packed row of each place; padding repeats the first row
`pooling.cls`                   (texts,)                    packed row of the first token
`pooling.lasttoken`             (texts,)                    packed row of the last token
`pooling.MODE`                  (texts, longest)            weight of each token in the text's vector; 0 for padding
`places.cls`                    (texts,)                    place in the rectangle of the first token
`places.lasttoken`              (texts,)                    place in the rectangle of the last token
a name in `FeedRules.tables`    (texts, longest, width)     rows of that tensor by token id, or by position
==============================  ==========================  ==========================================================

An output with one row per token is packed like the token ids, or has the same rectangle, from which `pack` takes the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import FeedRules, TensorInfo
from ..batch import Batch
from ..encodings import counting
from ..errors import InputError

__all__ = ["HOST_INPUTS", "POSITION_TABLE", "WORD_TABLE", "Feeds", "make_feeds", "pack"]

Array = NDArray[Any]

#: Inputs that are looked up in a table: by token id, and by position.
WORD_TABLE, POSITION_TABLE = "embeddings/word", "embeddings/position"

#: Inputs that an operator reads in memory of the host, also on a GPU.
HOST_INPUTS = frozenset({"total_sequence_length"})

#: Weight of a token in the vector of its text, computed from the positions (0, 1, …), (longest,), and from the lengths of the
#: texts, (texts, 1). The result broadcasts to (texts, longest).
_POOLING: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "cls": lambda step, length: step == 0,
        "lasttoken": lambda step, length: step == length - 1,
        "mean": lambda step, length: 1 / length,
        "mean_sqrt_len_tokens": lambda step, length: 1 / np.sqrt(length),
        "weightedmean": lambda step, length: 2 * (step + 1) / (length * (length + 1)),
    }
)


def make_feeds(
    inputs: tuple[TensorInfo, ...],
    rules: FeedRules,
    batch: Batch,
    tables: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Array]:
    """Make every input of a graph.

    Args:
        inputs: inputs of the graph.
        rules: rules of the variant.
        batch: at least one text.
        tables: tables that `rules.tables` names, by input name, (rows, width).

    Returns:
        Arrays by input name, of the declared types.

    Raises:
        InputError: the graph has a fixed shape that is too small for the batch.
    """
    feeds = Feeds(inputs, rules, batch, tables)
    arrays = {name: np.empty(shape, dtype) for name, dtype, shape in feeds.shapes}
    feeds.write(list(arrays.values()))
    return arrays


def pack(values: Array, batch: Batch) -> Array:
    """Return the values of a batch's tokens without padding.

    Args:
        values: packed values, (tokens, width), which are returned as they are; or a rectangle, (texts, longest, width), which
            may be larger than the batch.
        batch: texts of the values.

    Returns:
        Values of the tokens of all texts, one after another, (tokens, width).
    """
    if values.ndim == 2:
        return values
    rectangle = values[: len(batch)]
    packed: Array = rectangle[np.arange(rectangle.shape[1]) < batch.lengths[:, None]]
    return packed


def _kernel(name: str) -> int:
    """Return the number of tokens in the name of an input `around.SIZE`."""
    return int(name.removeprefix("around."))


class Feeds:
    """`Feeds`: inputs of a graph for one batch. It first computes their shapes, then writes their content to given arrays.

    The arrays may be memory that a GPU reads directly. Values that several inputs need are computed once.

    Attributes:
        shapes: name, type and shape of each input.
    """

    def __init__(
        self,
        inputs: tuple[TensorInfo, ...],
        rules: FeedRules,
        batch: Batch,
        tables: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        """Compute the shapes; arguments and errors are those of `make_feeds`."""
        lengths = batch.lengths
        self._last = int(lengths.max()) - 1
        texts, longest = len(batch), self._last + 1
        longest += -longest % rules.multiple
        offsets = batch.offsets
        if rules.shape is not None:
            if texts > rules.shape[0] or longest > rules.shape[1]:
                raise InputError(
                    f"a batch of {texts} texts of at most {longest} tokens was given to a graph for {rules.shape[0]} texts "
                    f"of {rules.shape[1]} tokens: choose a variant with a larger shape"
                )
            # Rows of a fixed shape without a text contain only padding, and their vectors are cut off.
            empty, longest = rules.shape[0] - texts, rules.shape[1]
            lengths = np.concatenate([lengths, np.zeros(empty, lengths.dtype)])
            offsets = np.concatenate([offsets, np.full(empty, batch.num_tokens, offsets.dtype)])
        self._rules = rules
        self._batch = batch
        self._tables = tables
        self._lengths = lengths.astype(np.int32)  # (texts,)
        self._offsets = offsets.astype(np.int32)  # (texts + 1,)
        self._steps = counting(longest)
        self.shapes = [(info.name, np.dtype(info.dtype), self._shape(info.name, len(info.shape))) for info in inputs]

    def write(self, arrays: Sequence[Array]) -> None:
        """Write each input to a contiguous array of its type and shape, in the order of `shapes`."""
        for (name, _, _), array in zip(self.shapes, arrays, strict=True):
            if name.startswith("pooling.") and array.ndim == 2:
                self._write_weights(name.removeprefix("pooling."), array)
            elif name == "rectangle":
                np.multiply(self._valid, self._steps, out=array, casting="unsafe")
                array += self._starts[:, None]
            elif name == "token_offset":
                self._write_token_offset(array.reshape(-1))
            else:
                np.copyto(array, self._make(name, array.ndim), casting="unsafe")

    @property
    def _rectangle(self) -> tuple[int, int]:
        return len(self._lengths), len(self._steps)

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        if name in self._rules.tables:
            return (*self._rectangle, self._tables[name].shape[1])
        if name.startswith("around."):
            return (*((self._batch.num_tokens,) if rank == 2 else self._rectangle), _kernel(name))
        if rank == 2:
            return self._rectangle
        if rank == 0:
            return ()
        sizes = {
            "offsets": len(self._offsets),
            "cumulative_sequence_length": len(self._offsets),
            "steps": len(self._steps),
            "text_tasks": len(self._lengths),
            "last_positions": len(self._lengths),
            "places.cls": len(self._lengths),
            "places.lasttoken": len(self._lengths),
            "pooling.cls": len(self._lengths),
            "pooling.lasttoken": len(self._lengths),
        }
        return (sizes.get(name, self._batch.num_tokens),)

    @cached_property
    def _valid(self) -> NDArray[np.bool_]:
        """Mask of the places of the rectangle that hold a token, (texts, longest)."""
        return self._steps < self._lengths[:, None]

    @property
    def _starts(self) -> NDArray[np.int32]:
        """Packed row of the first token of each text; for a text without tokens, a row that exists."""
        starts: NDArray[np.int32] = np.minimum(self._offsets[:-1], self._offsets[-1] - 1)
        return starts

    @cached_property
    def _positions(self) -> NDArray[np.int32]:
        """Position of each token in its text: 0, 1, 2, …, (tokens,)."""
        return counting(self._batch.num_tokens) - np.repeat(self._offsets[:-1], self._lengths)

    def _write_weights(self, mode: str, out: Array) -> None:
        """Write the weight of each token in the vector of its text."""
        weights = _POOLING[mode](self._steps, np.maximum(self._lengths, 1).astype(np.int64)[:, None])
        np.multiply(self._valid, weights.astype(out.dtype), out=out)

    def _write_token_offset(self, out: Array) -> None:
        """Write the places of the tokens in the rectangle, then the places of the padding, (texts · longest,)."""
        tokens, longest = self._batch.num_tokens, len(self._steps)
        shifts = counting(len(self._lengths)) * np.int32(longest) - self._offsets[:-1]
        np.add(counting(tokens), np.repeat(shifts, self._lengths), out=out[:tokens], casting="unsafe")
        if tokens < len(out):
            out[tokens:] = np.flatnonzero(~self._valid)

    def _make(self, name: str, rank: int) -> Array:
        """Return any other input; `rank` is that of its array: 1 for a packed input and 2 for a rectangle, or 1 more."""
        if name in self._rules.tables:
            index = self._unpack(self._packed("input_ids") if name == WORD_TABLE else self._position_ids())
            return np.asarray(self._tables[name][index])
        if name in ("input_ids", "token_type_ids", "task_ids", "position_ids", "positions"):
            packed = self._packed(name)
            return packed if rank == 1 else self._unpack(packed)
        if name in ("offsets", "cumulative_sequence_length"):
            return self._offsets
        if name == "text_tasks":
            tasks = self._batch.tensors((name,))[name]
            return np.concatenate([tasks, np.zeros(len(self._lengths) - len(tasks), tasks.dtype)])
        if name == "attention_mask":
            return self._attended()
        if name == "seen_tokens":
            return self._attended()[self._valid]
        if name == "steps":
            return np.minimum(self._steps, self._last)
        if name == "last_positions":
            return np.maximum(self._lengths, 1) - 1
        if name == "total_sequence_length":
            return np.array(len(self._steps))
        if name == "first_rows":
            tokens = self._batch.num_tokens
            texts = np.repeat(counting(len(self._lengths)), self._lengths)
            return np.where(self._positions == 0, tokens + texts, counting(tokens))
        if name.startswith("around."):
            return self._around(_kernel(name), is_packed=rank == 2)
        if name.startswith("places."):
            first = counting(len(self._lengths)) * np.int32(len(self._steps))
            return first if name == "places.cls" else first + np.maximum(self._lengths, 1) - 1
        if name == "pooling.cls":
            return self._starts
        if name == "pooling.lasttoken":
            return np.maximum(self._offsets[1:], 1) - 1
        raise KeyError(name)

    def _around(self, size: int, *, is_packed: bool) -> Array:
        """Return 1 + the row, or the cell of the rectangle, of the tokens around each one; 0 beyond the ends of its text."""
        steps = np.arange(size, dtype=np.int32) - np.int32(size // 2)
        place = self._positions[:, None] + steps  # (tokens, size)
        longest = len(self._steps)
        starts = self._offsets[:-1] if is_packed else counting(len(self._lengths)) * np.int32(longest)
        rows = np.repeat(starts, self._lengths)[:, None] + place + 1
        rows[(place < 0) | (place >= np.repeat(self._lengths, self._lengths)[:, None])] = 0
        if is_packed:
            return np.asarray(rows)
        cells = np.zeros((*self._rectangle, size), rows.dtype)
        cells[self._valid] = rows
        return cells

    def _packed(self, name: str) -> Array:
        if name in ("input_ids", "token_type_ids", "task_ids"):
            return self._batch.tensors((name,))[name]
        return self._position_ids() if name == "position_ids" else self._positions

    def _attended(self) -> Array:
        """Return the mask of the tokens that attention sees, (texts, longest). It always sees the first token of a text."""
        tail = self._rules.unseen_tail
        if tail is None:
            return self._valid
        is_other = self._unpack(self._packed("input_ids") != tail)
        last = np.where(is_other, self._steps, 0).max(axis=1, keepdims=True)
        attended: Array = self._valid & (self._steps <= last)
        return attended

    def _position_ids(self) -> Array:
        """Return the rows of the position table, as `create_position_ids_from_input_ids` of RoBERTa in transformers does."""
        padding = self._rules.padding_id
        if padding is None:
            return self._positions
        counts = self._packed("input_ids") != padding
        before = np.concatenate([[0], np.cumsum(counts)])
        nth = before[1:] - np.repeat(before[self._batch.offsets[:-1]], self._batch.lengths)
        return np.asarray(nth * counts + padding)

    def _unpack(self, packed: Array) -> Array:
        """Return packed values in the rectangle, 0 in padding."""
        places = np.zeros(self._rectangle, packed.dtype)
        places[self._valid] = packed
        return places
