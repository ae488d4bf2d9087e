"""`EmbedRequest`: one request to a model as data, and `Price`, its predicted cost.

Both are plain data: they can be encoded with msgspec or pickled, logged, limited, queued, repeated, and sent to another
process. The record and the trace of a request are handles of this process, so they are not part of it: `Engine.submit` takes
them beside the request, as a `RecordDraft`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fletcher.model_zoo.card import Output
from fletcher.runtime.embed_options import EmbedOptions
from fletcher.runtime.inputs import Inputs, Pairs, TokenIds
from fletcher.runtime.model_info import ModelInfo

from .terms import USUAL, Terms

__all__ = ["PLAIN", "EmbedRequest", "Price", "price_of"]

PLAIN: Final = EmbedOptions()


class EmbedRequest(msgspec.Struct, frozen=True):
    """A request to a model.

    Attributes:
        inputs: texts, token ids, or pairs of a query and documents.
        options: the way in which texts become vectors.
        output: the requested output: `vectors`, `scores`, `sparse`, or `token_vectors` (an embedder's token states).
        terms: priority, client and deadline.
    """

    inputs: Inputs
    options: EmbedOptions = PLAIN
    output: Output = "vectors"
    terms: Terms = USUAL


class Price(msgspec.Struct, frozen=True):
    """Predicted cost of a request, known before it is tokenized.

    Attributes:
        characters: characters of all texts; 0 for token ids.
        ids: token ids that the client sent; 0 for texts.
        rows: rows of the answer.
        tokens: tokens to compute: an estimate on the safe side for texts, exact for token ids.
        memory: bytes that the request holds until it is answered.
    """

    characters: int
    ids: int
    rows: int
    tokens: int
    memory: int


def price_of(request: EmbedRequest, info: ModelInfo) -> Price:
    """Return the predicted cost of a request to a model.

    English has about four characters a token. Two a token, and four tokens a row for prompt and special tokens, keep the
    estimate on the safe side until the real count is known. No row is longer than the longest input, unless texts are split.
    A token takes 4 bytes for its id and 4 for the copy of it in a batch; a row's vector is `dimension` times float32. Late
    chunking holds a vector for each token as well.
    """
    inputs, options = request.inputs, request.options
    characters = ids = 0
    if isinstance(inputs, TokenIds):
        rows = len(inputs.rows)
        lengths = [len(row) for row in inputs.rows]
        ids, tokens = sum(lengths), sum(min(length, info.max_tokens) for length in lengths)
    else:
        if isinstance(inputs, Pairs):
            rows = len(inputs.documents)
            characters = sum(map(len, inputs.documents)) + len(inputs.query) * rows
        else:
            rows = len(inputs.texts)
            characters = sum(map(len, inputs.texts))
        tokens, most = characters // 2 + 4 * rows, rows * info.max_tokens
        if tokens > most and not options.splits:
            tokens = most
    vectors = rows + tokens if options.overflow == "late" else rows
    return Price(characters, ids, rows, tokens, 4 * vectors * info.dimension + 8 * tokens)
