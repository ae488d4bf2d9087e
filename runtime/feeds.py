"""From `Encodings` to the inputs of a graph: what each input's name means, whatever the target.

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
`position_ids`                  as `input_ids`              rows of the table of learnt positions
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

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encodings import Encodings
from .errors import InputError
from .manifest import FeedRules, TensorInfo

__all__ = ["POSITION_TABLE", "WORD_TABLE", "make_feeds", "pack"]

Array = NDArray[Any]

#: Inputs that are looked up in a table: by token id, and by position.
WORD_TABLE, POSITION_TABLE = "embeddings/word", "embeddings/position"

#: What a token counts for, by its place in the text (0, 1, …) and the text's length, both (texts, longest) or (texts, 1).
_POOLING: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "cls": lambda step, length: step == 0,
        "lasttoken": lambda step, length: step == length - 1,
        "mean": lambda step, length: 1 / length + 0 * step,
        "mean_sqrt_len_tokens": lambda step, length: 1 / np.sqrt(length) + 0 * step,
        "weightedmean": lambda step, length: 2 * (step + 1) / (length * (length + 1)),
    }
)


def make_feeds(
    inputs: tuple[TensorInfo, ...],
    rules: FeedRules,
    batch: Encodings,
    tables: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Array]:
    """Makes every input of a graph.

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
    grid = _Grid(rules, batch)
    return {
        info.name: np.ascontiguousarray(grid.make(info.name, len(info.shape), tables), np.dtype(info.dtype))
        for info in inputs
    }


def pack(values: Array, batch: Encodings) -> Array:
    """Values of a batch's tokens without padding.

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


class _Grid:
    """Where each token of a batch lies, packed and in the rectangle."""

    def __init__(self, rules: FeedRules, batch: Encodings) -> None:
        texts, self._last = len(batch), int(batch.lengths.max()) - 1
        longest = self._last + 1
        longest += -longest % rules.multiple
        if rules.shape is not None:
            if texts > rules.shape[0] or longest > rules.shape[1]:
                raise InputError(
                    f"a batch of {texts} texts of at most {longest} tokens was given to a graph for {rules.shape[0]} texts "
                    f"of {rules.shape[1]} tokens: choose a variant with a larger shape"
                )
            texts, longest = rules.shape
        self._rules = rules
        self._batch = batch
        # A fixed shape may have rows without a text: they are all padding, and their vectors are cut off.
        self._lengths = np.zeros(texts, np.int64)
        self._lengths[: len(batch)] = batch.lengths
        self._offsets: NDArray[np.int64] = batch.offsets
        if texts > len(batch):  # texts of no token, at the end
            self._offsets = np.concatenate([batch.offsets, np.full(texts - len(batch), batch.num_tokens)])
        self._steps = np.arange(longest, dtype=np.int32)
        self._valid = self._steps < self._lengths[:, None]  # (texts, longest)

    def make(self, name: str, rank: int, tables: Mapping[str, Array]) -> Array:
        """One input; `rank` tells a packed one from a rectangle."""
        if name in self._rules.tables:
            index = self._rectangle(self._batch.ids if name == WORD_TABLE else self._position_ids())
            return np.asarray(tables[name][index])
        if name.startswith("pooling.") and rank == 2:
            weight = _POOLING[name.removeprefix("pooling.")]
            return np.where(self._valid, weight(self._steps, np.maximum(self._lengths, 1)[:, None]), 0)
        if name in ("input_ids", "token_type_ids", "position_ids", "positions"):
            packed = self._packed(name)
            return packed if rank == 1 else self._rectangle(packed)
        return self._layout(name)

    def _packed(self, name: str) -> Array:
        if name == "token_type_ids":
            return self._batch.types
        if name == "input_ids":
            return self._batch.ids
        return self._position_ids() if name == "position_ids" else self._positions()

    def _layout(self, name: str) -> Array:
        if name in ("offsets", "cumulative_sequence_length"):
            return self._offsets
        # Rows that exist also where a text has no token.
        starts: NDArray[np.int64] = np.minimum(self._offsets[:-1], self._offsets[-1] - 1)
        ends: NDArray[np.int64] = np.maximum(self._offsets[1:], 1)
        if name == "token_offset":
            first = np.arange(len(self._lengths), dtype=np.int32) * np.int32(len(self._steps))
            places = self._positions() + np.repeat(first[: len(self._batch)], self._batch.lengths)
            rest = np.flatnonzero(~self._valid).astype(np.int32)
            return np.concatenate([places, rest]).reshape(self._valid.shape)
        if name == "attention_mask":
            return self._attended()
        if name == "steps":
            return np.minimum(self._steps, self._last)
        if name == "rectangle":
            return starts.astype(np.int32)[:, None] + np.where(self._valid, self._steps, np.int32(0))
        if name == "pooling.cls":
            return starts
        if name == "pooling.lasttoken":
            return ends - 1
        raise KeyError(name)

    def _attended(self) -> Array:
        """Which places hold a token that is attended to; a text's first one always is."""
        tail = self._rules.unseen_tail
        if tail is None:
            return self._valid
        is_other = self._rectangle(self._batch.ids != tail)
        last = np.where(is_other, self._steps, 0).max(axis=1, keepdims=True)
        attended: Array = self._valid & (self._steps <= last)
        return attended

    def _positions(self) -> Array:
        starts = self._batch.offsets[:-1].astype(np.int32)
        return np.arange(self._batch.num_tokens, dtype=np.int32) - np.repeat(starts, self._batch.lengths)

    def _position_ids(self) -> Array:
        """Source of the counting: `create_position_ids_from_input_ids` in transformers' modeling_roberta.py."""
        padding = self._rules.padding_id
        if padding is None:
            return self._positions()
        counts = self._batch.ids != padding
        before = np.concatenate([[0], np.cumsum(counts)])
        nth = before[1:] - np.repeat(before[self._batch.offsets[:-1]], self._batch.lengths)
        return np.asarray(nth * counts + padding)

    def _rectangle(self, packed: Array) -> Array:
        """Packed values in the rectangle, 0 in padding."""
        places = np.zeros(self._valid.size, packed.dtype)
        places[np.flatnonzero(self._valid)] = packed
        return places.reshape(self._valid.shape)
