"""Further outputs of BGE-M3: sparse and token vectors, alone or several outputs of one pass.

A text's sparse vector has the largest weight of each of its token ids; the tokens that begin, end and fill a text have none.
Its token vectors are those of all tokens but the first.

Source: FlagEmbedding, `M3Embedder.encode_single_device` (`_process_token_weights`, `_process_colbert_vecs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import Output, TokenHeads

from ..artifact.manifest import TOKEN_WEIGHTS
from ..artifact.outputs import join_names, split_values, value_rows
from ..encodings import Embeddings, Encodings
from ..errors import InputError
from ..inputs import Inputs, Pairs, Requested, Texts
from ..model_info import ModelInfo
from ..options.embed import EmbedOptions
from ..tokenizing.tokenizer import Tokenizer
from .heads import SparseEmbeddings, TokenEmbeddings
from .task import Task, encode_ids, finish, tokenize

__all__ = ["FURTHER", "ORDER", "TextOutputs", "prepare_further"]

#: Outputs in the order in which several are named.
ORDER: Final[tuple[Output, ...]] = ("vectors", "sparse", "token_vectors")

#: Outputs besides the vectors of texts.
FURTHER: Final[tuple[Output, ...]] = ORDER[1:]

#: Output of the graph by the requested output.
_NAMES: Mapping[Output, str] = MappingProxyType(
    {"vectors": "vectors", "sparse": TOKEN_WEIGHTS, "token_vectors": "token_vectors"}
)


@dataclass(frozen=True, slots=True)
class TextOutputs:
    """Several outputs of one pass. Those that were not requested are None.

    Attributes:
        tokens: number of tokens of each text that the model processed, special tokens included, int64, (n,).
        dropped: number of tokens that truncation cut from each text, int32, (n,).
        vectors: vectors of the texts.
        sparse: weights of the vocabulary's tokens.
        token_vectors: vectors of tokens.
    """

    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]
    vectors: Embeddings | None = None
    sparse: SparseEmbeddings | None = None
    token_vectors: TokenEmbeddings | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of all outputs."""
        total = 0 if self.vectors is None else self.vectors.nbytes
        if self.sparse is not None:
            total += self.sparse.indices.nbytes + self.sparse.values.nbytes
        return total + (0 if self.token_vectors is None else self.token_vectors.vectors.nbytes)


def prepare_further(
    tokenizer: Tokenizer, info: ModelInfo, inputs: Inputs, options: EmbedOptions, output: Requested
) -> Task:
    """Prepare a request of a further output, or of several outputs, to an embedder that has them.

    Args:
        tokenizer: the model's tokenizer.
        info: description of the model.
        inputs: texts or token ids.
        options: options of embedding. Length, type and norm are those of the texts' vectors; texts are not split.
        output: `sparse`, `token_vectors`, or several outputs.

    Returns:
        A task whose `finish` gives `SparseEmbeddings`, `TokenEmbeddings`, or `TextOutputs` for several outputs.

    Raises:
        InputError: the model does not give one of the outputs, or inputs or options cannot be used.
    """
    requested = {output} if isinstance(output, str) else set(output)
    kinds = [kind for kind in ORDER if kind in requested]
    if not kinds or requested - set(ORDER):
        raise InputError(f"the outputs are {', '.join(sorted(requested))}; {', '.join(ORDER)} can be requested")
    for kind in kinds:
        info.require(kind)
    if not info.token_dimension:
        raise InputError(
            f"{info.card.name} gives one output a request, not {' and '.join(kinds)}: send several requests"
        )
    info.check_request(options, tuple(kinds))
    encodings = _encode(tokenizer, info, inputs, options)
    finishers = [_Finisher(kind, encodings, info, options, _unweighted(tokenizer, info)) for kind in kinds]
    names = [_NAMES[kind] for kind in kinds]
    rows = value_rows(join_names(names), info.widths)
    if isinstance(output, str):
        return Task(encodings, names[0], finishers[0].finish, rows)
    widths = [info.widths[name] for name in names]

    def split(values: NDArray[np.float32]) -> TextOutputs:
        parts = [values] if len(names) == 1 else split_values(names, widths, values, encodings)
        found: dict[str, Any] = {
            kind: finisher.finish(part) for kind, finisher, part in zip(kinds, finishers, parts, strict=True)
        }
        return TextOutputs(encodings.lengths, encodings.dropped, **found)

    return Task(encodings, join_names(names), split, rows)


def _encode(tokenizer: Tokenizer, info: ModelInfo, inputs: Inputs, options: EmbedOptions) -> Encodings:
    if isinstance(inputs, Pairs):
        raise InputError(f"{info.card.name} does not score pairs: send texts")
    if isinstance(inputs, Texts):
        return tokenize(tokenizer, info.card, inputs.texts, options)
    return encode_ids(tokenizer, inputs, info.card.name)


def _unweighted(tokenizer: Tokenizer, info: ModelInfo) -> NDArray[np.int32]:
    """Return the ids of the tokens that have no weight, int32."""
    heads = info.card.token_heads
    names: Sequence[str] = heads.unweighted if isinstance(heads, TokenHeads) else ()
    return np.array([token for name in names if (token := tokenizer.token_id(name)) is not None], np.int32)


@dataclass(frozen=True, slots=True)
class _Finisher:
    """Function from the values of one output of the graph to the answer of it."""

    kind: Output
    encodings: Encodings
    info: ModelInfo
    options: EmbedOptions
    unweighted: NDArray[np.int32]

    def finish(self, values: NDArray[np.float32]) -> Any:
        encodings = self.encodings
        if self.kind == "sparse":
            return _largest_weights(values[:, 0], encodings, self.unweighted)
        if self.kind == "token_vectors":
            return _without_first(values, encodings)
        embeddings = Embeddings(values, encodings.lengths, encodings.dropped)
        return finish(embeddings, None, self.info.card, self.options)


def _largest_weights(
    weights: NDArray[np.float32], encodings: Encodings, unweighted: NDArray[np.int32]
) -> SparseEmbeddings:
    """Return the largest weight of each token id of each text; weights of zero are left out.

    Args:
        weights: weight of each token, float32, (tokens,).
        encodings: the tokens.
        unweighted: ids without a weight, int32.
    """
    kept = np.flatnonzero((weights > 0) & ~np.isin(encodings.ids, unweighted))
    texts = np.repeat(np.arange(len(encodings)), encodings.lengths)[kept]
    order = np.lexsort((encodings.ids[kept], texts))
    texts, ids, values = texts[order], encodings.ids[kept][order], weights[kept][order]
    is_first = np.ones(len(ids), bool)
    is_first[1:] = (ids[1:] != ids[:-1]) | (texts[1:] != texts[:-1])
    firsts = np.flatnonzero(is_first)
    largest = np.maximum.reduceat(values, firsts) if len(firsts) else values
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum(np.bincount(texts[firsts], minlength=len(encodings)), out=offsets[1:])
    return SparseEmbeddings(ids[firsts], largest, offsets, encodings.lengths, encodings.dropped)


def _without_first(vectors: NDArray[np.float32], encodings: Encodings) -> TokenEmbeddings:
    """Return the vectors of all tokens but the first of each text."""
    kept = np.ones(len(vectors), bool)
    kept[encodings.offsets[:-1]] = False
    offsets = encodings.offsets - np.arange(len(encodings) + 1)
    return TokenEmbeddings(vectors[kept], offsets, encodings.lengths, encodings.dropped)
