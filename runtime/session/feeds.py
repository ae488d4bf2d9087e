"""Inputs of a graph, made from a batch: the meaning of each input's name, the same for all targets.

A graph declares the inputs that it needs, and the host makes those, so that no graph for a device has to compute where a
token lies. All of it is index arithmetic over small integers. Padding comes after a text's tokens.

==============================  ==========================  ==========================================================
input                           shape                       content
==============================  ==========================  ==========================================================
`input_ids`                     (tokens,)                   token ids, all texts in a row
`input_ids`                     (texts, longest)            the same in a rectangle; padding is 0
`token_type_ids`                as `input_ids`              which of a pair's texts each token belongs to
`offsets`                       (texts + 1,)                where each text begins and the last one ends
`cumulative_sequence_length`    (texts + 1,)                the same, under ONNX Runtime's name
`token_offset`                  (texts, longest)            places in the rectangle: tokens' in order, then padding's
`position_ids`                  as `input_ids`              rows of the table of learned positions
`positions`                     as `input_ids`              0, 1, 2, … in each text
`attention_mask`                (texts, longest)            1 for a token, 0 for padding and for `FeedRules.unseen_tail`
`steps`                         (longest,)                  0, 1, 2, …; rounded up, it repeats the last, as tables end
`rectangle`                     (texts, longest)            packed row of each place; padding repeats the text's first
`pooling.cls`                   (texts,)                    packed row of the first token
`pooling.lasttoken`             (texts,)                    packed row of the last token
`pooling.MODE`                  (texts, longest)            weight of each token in the text's vector; 0 for padding
a name in `FeedRules.tables`    (texts, longest, width)     rows of that tensor by token id, or by position
==============================  ==========================  ==========================================================

What a graph gives for each token is packed as its token ids are, or lies in the same rectangle: `pack` takes it out of that.
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

__all__ = ["POSITION_TABLE", "WORD_TABLE", "Feeds", "make_feeds", "pack"]

Array = NDArray[Any]

#: Inputs that are looked up in a table: by token id, and by position.
WORD_TABLE, POSITION_TABLE = "embeddings/word", "embeddings/position"

#: What a token counts for, by its place in the text (0, 1, …), (longest,), and the text's length, (texts, 1): of a shape that
#: both fit.
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
        inputs: the graph's inputs.
        rules: the variant's.
        batch: at least one text.
        tables: by input name, the tables that `rules.tables` names, (rows, width).

    Returns:
        Arrays by input name, of the declared types.

    Raises:
        InputError: the graph's shape is fixed and the batch does not fit.
    """
    feeds = Feeds(inputs, rules, batch, tables)
    arrays = {name: np.empty(shape, dtype) for name, dtype, shape in feeds.shapes}
    feeds.write(list(arrays.values()))
    return arrays


def pack(values: Array, batch: Batch) -> Array:
    """Return the values of a batch's tokens without padding.

    Args:
        values: (tokens, width), which is given back, or a rectangle of at least its texts and longest, (texts, longest,
            width).
        batch: the texts.

    Returns:
        (tokens, width), all texts' tokens in a row.
    """
    if values.ndim == 2:
        return values
    rectangle = values[: len(batch)]
    packed: Array = rectangle[np.arange(rectangle.shape[1]) < batch.lengths[:, None]]
    return packed


class Feeds:
    """Inputs of a graph for one batch: first their shapes, then their content, written to memory that the caller gives.

    For a GPU that is memory which it reads by itself. What several inputs need is computed once.

    Attributes:
        shapes: of each input, its name, type and shape.
    """

    def __init__(
        self,
        inputs: tuple[TensorInfo, ...],
        rules: FeedRules,
        batch: Batch,
        tables: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        """Find the shapes; arguments and errors are those of `make_feeds`."""
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
            # A fixed shape may have rows without a text: they are all padding, and their vectors are cut off.
            rest, longest = rules.shape[0] - texts, rules.shape[1]
            lengths = np.concatenate([lengths, np.zeros(rest, lengths.dtype)])
            offsets = np.concatenate([offsets, np.full(rest, batch.num_tokens, offsets.dtype)])
        self._rules = rules
        self._batch = batch
        self._tables = tables
        self._lengths = lengths.astype(np.int32)  # (texts,)
        self._offsets = offsets.astype(np.int32)  # (texts + 1,)
        self._steps = counting(longest)
        self.shapes = [(info.name, np.dtype(info.dtype), self._shape(info.name, len(info.shape))) for info in inputs]

    def write(self, arrays: Sequence[Array]) -> None:
        """Write each input to an array of its type and shape, contiguous, in the order of `shapes`."""
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
        if rank == 2:
            return self._rectangle
        sizes = {
            "offsets": len(self._offsets),
            "cumulative_sequence_length": len(self._offsets),
            "steps": len(self._steps),
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
        """Packed row of each text's first token; a row that exists even if a text has no token."""
        starts: NDArray[np.int32] = np.minimum(self._offsets[:-1], self._offsets[-1] - 1)
        return starts

    @cached_property
    def _positions(self) -> NDArray[np.int32]:
        """0, 1, 2, … in each text, (tokens,)."""
        return counting(self._batch.num_tokens) - np.repeat(self._offsets[:-1], self._lengths)

    def _write_weights(self, mode: str, out: Array) -> None:
        """Write the weight of each token in its text's vector."""
        weights = _POOLING[mode](self._steps, np.maximum(self._lengths, 1).astype(np.int64)[:, None])
        np.multiply(self._valid, weights.astype(out.dtype), out=out)

    def _write_token_offset(self, out: Array) -> None:
        """Write the places of the tokens in the rectangle, then those of the padding; (texts · longest,)."""
        tokens, longest = self._batch.num_tokens, len(self._steps)
        moved = counting(len(self._lengths)) * np.int32(longest) - self._offsets[:-1]
        np.add(counting(tokens), np.repeat(moved, self._lengths), out=out[:tokens], casting="unsafe")
        if tokens < len(out):
            out[tokens:] = np.flatnonzero(~self._valid)

    def _make(self, name: str, rank: int) -> Array:
        """Return any other input; `rank` is 1 for a packed one and 2 for a rectangle."""
        if name in self._rules.tables:
            index = self._unpack(self._packed("input_ids") if name == WORD_TABLE else self._position_ids())
            return np.asarray(self._tables[name][index])
        if name in ("input_ids", "token_type_ids", "position_ids", "positions"):
            packed = self._packed(name)
            return packed if rank == 1 else self._unpack(packed)
        if name in ("offsets", "cumulative_sequence_length"):
            return self._offsets
        if name == "attention_mask":
            return self._attended()
        if name == "steps":
            return np.minimum(self._steps, self._last)
        if name == "pooling.cls":
            return self._starts
        if name == "pooling.lasttoken":
            return np.maximum(self._offsets[1:], 1) - 1
        raise KeyError(name)

    def _packed(self, name: str) -> Array:
        if name in ("input_ids", "token_type_ids"):
            return self._batch.tensors((name,))[name]
        return self._position_ids() if name == "position_ids" else self._positions

    def _attended(self) -> Array:
        """Return the mask of the tokens that are attended to; a text's first token always is."""
        tail = self._rules.unseen_tail
        if tail is None:
            return self._valid
        is_other = self._unpack(self._packed("input_ids") != tail)
        last = np.where(is_other, self._steps, 0).max(axis=1, keepdims=True)
        attended: Array = self._valid & (self._steps <= last)
        return attended

    def _position_ids(self) -> Array:
        """Return rows of the table of positions, as `create_position_ids_from_input_ids` of transformers' RoBERTa does."""
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
