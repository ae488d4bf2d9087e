"""`Preparer`: tokenizer, description and vector cache of a model: everything before and after its session.

`Encoder` has one beside its session. A server's front process has one without a session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import HALF_VECTORS
from ..artifact.outputs import ValueRows
from ..encodings import Encodings
from ..inputs import Inputs, Pairs, Requested, Texts, TokenIds
from ..model_info import ModelInfo
from ..options.embed import EmbedOptions
from ..tokenizing.tokenizer import Tokenizer
from .duplicates import Known, Promise, VectorCache
from .further_outputs import FURTHER, prepare_further
from .heads import prepare_head
from .static_queries import prepare_mean, prepare_static, takes_static
from .task import Task, prepare_ids, prepare_vectors

__all__ = ["Preparer"]


class Preparer:
    """Turns requests into tasks. Safe to use from several threads.

    Attributes:
        tokenizer: the model's tokenizer.
        info: the model's description.
        cache: vectors of earlier calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        info: ModelInfo,
        cache: VectorCache,
        query_weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Join the parts."""
        self._query_weights = query_weights
        self.tokenizer = tokenizer
        self.info = info
        self.cache = cache

    def prepare(
        self,
        inputs: Inputs,
        options: EmbedOptions,
        output: Requested,
        promised: dict[bytes, Promise] | None = None,
        *,
        salt: str = "",
    ) -> Task:
        """Tokenize a request: the rows that must be computed, and the function that makes its answer of their values.

        Args:
            inputs: texts, token ids, or pairs for `scores`. Duplicates and cached texts are not computed.
            options: the way in which they become vectors; for vectors of texts, `info.check` accepted them.
            output: `vectors`, or another output that `info.outputs` lists; or several, where `info.token_dimension` is not 0.
            promised: see `prepare_vectors`.
            salt: cached vectors are found only with the salt with which they were kept.

        Raises:
            InputError: the model has no such output, or inputs or options cannot be used.
        """
        card, weights = self.info.card, self._query_weights
        if output != "vectors" or isinstance(inputs, Pairs):
            if not isinstance(output, str) or (self.info.token_dimension and output in FURTHER):
                return prepare_further(self.tokenizer, self.info, inputs, options, output)
            if weights is not None and output == "sparse" and isinstance(inputs, Texts) and takes_static(card, options):
                return prepare_static(self.tokenizer, card, weights, inputs.texts, options)
            has_states = self.info.has_token_states
            return prepare_head(self.tokenizer, card, inputs, options, output, has_states=has_states)
        if weights is not None and isinstance(inputs, Texts) and takes_static(card, options):
            return prepare_mean(self.tokenizer, card, weights, inputs.texts, options)
        if isinstance(inputs, TokenIds):
            task = prepare_ids(self.tokenizer, card, inputs, options)
        else:
            task = prepare_vectors(self.tokenizer, card, self.cache.salted(salt), inputs.texts, options, promised)
        if options.dtype == "float16" and task.output is None and self.leaves_in_half(options):
            return replace(task, output=HALF_VECTORS)
        return task

    def prepare_rows(
        self, encodings: Encodings, output: str | None, *, rows: ValueRows | None = None, salt: str = ""
    ) -> Task:
        """Take rows that were tokenized elsewhere. Cached rows are not computed.

        Args:
            encodings: the rows.
            output: name of the graph's output; None is the first.
            rows: rows of values that a text has; None is one row.
            salt: as for `prepare`.

        Returns:
            A task whose `finish` gives the values of all rows.
        """
        if output is not None or rows is not None or not self.cache.enabled:
            return Task(encodings, output, lambda values: values, rows)
        keys = _row_keys(self.cache.salted(salt), encodings)
        vectors = [self.cache.get(key) for key in keys]
        missing = [row for row, vector in enumerate(vectors) if vector is None]
        everything = len(missing) == len(keys)

        def join(values: NDArray[np.float32]) -> NDArray[np.float32]:
            for row, value in zip(missing, values, strict=True):
                vectors[row] = self.cache.keep(keys[row], Known(value, 0, 0))
            return values if everything else np.stack([vector.vector for vector in vectors if vector is not None])

        return Task(encodings if everything else encodings.select(np.array(missing, np.int64)), None, join)

    def leaves_in_half(self, options: EmbedOptions) -> bool:
        """Return whether the device may cast to half precision, because no other step changes or caches the vectors."""
        card = self.info.card
        untouched = options.dimensions in (None, card.dimension) and (card.normalize or not options.normalize)
        return self.info.half_vectors and options.dtype == "float16" and untouched and not options.splits


def _row_keys(cache: VectorCache, encodings: Encodings) -> list[bytes]:
    """Return the keys of rows in the cache: 128 bits of their token ids and token types."""
    data, offsets = encodings.ids.tobytes(), (4 * encodings.offsets).tolist()
    types = b"" if encodings.token_types is None else encodings.token_types.tobytes()
    start = cache.begin_key("token ids")
    keys: list[bytes] = []
    previous: Sequence[int] = offsets[:-1]
    for first, end in zip(previous, offsets[1:], strict=True):
        digest: hashlib.blake2b = start.copy()
        digest.update(data[first:end])
        digest.update(types[first:end])
        keys.append(digest.digest())
    return keys
