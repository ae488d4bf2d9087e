"""Vectors before their scaling to length 1, which text-embeddings-inference returns for `normalize: false`.

An artifact that is normalized by definition returns scaled vectors. If its graph also gives the states of tokens, a vector
before the scaling is the mean of the text's states. Other artifacts, for example those that take the first token, do not keep
it: their answer is scaled, and a header says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings, TokenEmbeddings
from fletcher.runtime.inputs import Inputs, Texts
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.options.embed import EmbedOptions

from ...call import Call
from ..answers import Headers

__all__ = ["NORMALIZED", "ask_unscaled"]

#: Header of an answer whose vectors have length 1 although the request has `normalize: false`.
NORMALIZED: Final = "x-normalized"

#: Largest number of tokens whose states are in memory at a time: 48 MiB with 768 dimensions.
PIECE_TOKENS: Final = 1 << 14


async def ask_unscaled(
    call: Call, model: str | None, inputs: Inputs, options: EmbedOptions
) -> tuple[Embeddings, Headers]:
    """Return vectors that are not scaled to length 1, if the model has them, and the header that says whether it has.

    Args:
        call: the request.
        model: name of the model, or None.
        inputs: texts or token ids.
        options: options with `normalize` false.

    Raises:
        FletcherError: as of `Call.ask`.
    """
    info = call.pick(model).info
    if not info.card.normalize:
        return (await call.ask(model, inputs, options))[1], ()
    if not (isinstance(inputs, Texts) and _has_unscaled(info, options)):
        scaled = (await call.ask(model, inputs, options.replace(normalize=None)))[1]
        return scaled, ((NORMALIZED.encode(), b"true"),)
    parts = [part async for part in _parts(call, model, inputs.texts, options, max(1, PIECE_TOKENS // info.max_tokens))]
    vectors = np.concatenate([part.vectors for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    dropped = np.concatenate([part.dropped for part in parts])
    return Embeddings(vectors, tokens, dropped), ()


async def _parts(
    call: Call, model: str | None, texts: Sequence[str], options: EmbedOptions, size: int
) -> AsyncIterator[Embeddings]:
    """Yield the unscaled vectors of pieces of texts, so that the states of a few texts are in memory at a time."""
    for first in range(0, len(texts), size):
        states: TokenEmbeddings
        piece = Texts(tuple(texts[first : first + size]))
        _, states = await call.ask(model, piece, options, "token_vectors", first=first)
        yield Embeddings(_means(states), states.tokens, states.dropped)


def _has_unscaled(info: ModelInfo, options: EmbedOptions) -> bool:
    """Return whether the vectors before the scaling can be computed from states of tokens."""
    return info.has_token_states and options.dimensions is None and options.dtype == "float32" and not options.splits


def _means(states: TokenEmbeddings) -> NDArray[np.float32]:
    """Return the mean state of each text, float32, (n, dimension)."""
    starts = states.offsets[:-1]
    sums: NDArray[np.float64] = np.add.reduceat(states.vectors, starts, axis=0, dtype=np.float64)
    means: NDArray[np.float64] = sums / np.diff(states.offsets)[:, None]
    return means.astype(np.float32)
