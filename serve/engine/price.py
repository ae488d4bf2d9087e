"""`Price`: predicted cost of a request, which admission compares with the limits, and the size of a bulk request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from fletcher.runtime.inputs import Inputs, Pairs, Texts, TokenIds
from fletcher.runtime.model_info import ModelInfo

from .embed_request import EmbedRequest
from .rows_request import RowsRequest

__all__ = [
    "BULK_CHARACTERS",
    "BULK_TEXTS",
    "BULK_TOKENS",
    "FIRST_RATIO",
    "ROW_CHARACTERS",
    "Price",
    "answer_bytes",
    "charged_tokens",
    "is_bulk",
    "price_of",
    "price_of_rows",
]

#: Tokens per character before any text was tokenized. It is high: English has about one token for four characters.
FIRST_RATIO: Final = 0.5

#: Tokens per character that a client is charged until the real number is known. English has one token for four characters.
CHARGED_RATIO: Final = 0.25

#: Characters that a row counts for besides its own: its special tokens and its prompt.
ROW_CHARACTERS: Final = 8

#: Numbers of texts and tokens above which a request is a bulk request if it names no class.
BULK_TEXTS: Final = 256
BULK_TOKENS: Final = 1 << 16

#: Characters of so many tokens. English has about four characters per token.
BULK_CHARACTERS: Final = 4 * BULK_TOKENS


#: Bytes of an answer that are encoded at a time: the pieces that wait for a client, and the one that is being made.
ENCODED_BYTES: Final = 4 << 20


class Price(msgspec.Struct, frozen=True):
    """Predicted cost of a request, known before it is tokenized.

    Attributes:
        characters: number of characters of all texts; 0 for token ids.
        ids: number of token ids that the client sent; 0 for texts.
        rows: number of rows of the answer.
        tokens: number of tokens to compute: an estimate for texts, exact for token ids.
        memory: bytes that the request holds until it is answered.
    """

    characters: int
    ids: int
    rows: int
    tokens: int
    memory: int


def price_of(request: EmbedRequest, info: ModelInfo, ratio: float = FIRST_RATIO) -> Price:
    """Return the predicted cost of a request to a model.

    A row is not longer than the longest input, unless texts are split; then it becomes windows, which overlap. A token takes
    4 bytes for its id and 4 bytes for the copy in a batch. The vector of a row takes `dimension` float32 values. Late
    chunking and outputs by token also hold a vector for each token, and windows one for each window.

    Args:
        request: the request.
        info: description of the model.
        ratio: tokens per character of earlier texts.
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
            characters = sum(map(len, inputs.documents)) + sum(map(len, inputs.queries))
        else:
            rows = len(inputs.texts)
            characters = sum(map(len, inputs.texts))
        tokens, most = int(ratio * (characters + ROW_CHARACTERS * rows)), rows * info.max_tokens
        if tokens > most and not options.splits:
            tokens = most
    vectors = rows
    if options.splits:
        window, step = options.window(info.card), options.step(info.card)
        windows = rows + tokens // step
        tokens = min(tokens * window // step, windows * window)
        vectors += tokens + tokens // options.chunk if options.overflow == "late" else windows
    elif request.output == "token_vectors" and not info.token_dimension:
        vectors += tokens
    elif info.token_dimension and request.output != "vectors":
        return Price(characters, ids, rows, tokens, 4 * _further_values(request, info, rows, tokens) + 8 * tokens)
    return Price(characters, ids, rows, tokens, 4 * vectors * info.dimension + 8 * tokens)


def _further_values(request: EmbedRequest, info: ModelInfo, rows: int, tokens: int) -> int:
    """Return the elements that a request of an embedder's further outputs holds.

    A token's weight is a number, and becomes an index and a value. Several outputs are computed as one array, of which the
    answer's arrays are copies.

    Args:
        request: the request.
        info: description of the model.
        rows: number of texts.
        tokens: number of their tokens.
    """
    names = (request.output,) if isinstance(request.output, str) else request.output
    widths = {"vectors": rows * info.dimension, "sparse": 3 * tokens, "token_vectors": tokens * info.token_dimension}
    return (1 if len(names) == 1 else 2) * sum(widths.get(name, 0) for name in names)


def answer_bytes(request: EmbedRequest, info: ModelInfo) -> int:
    """Return the bytes that the answer to a request takes until its client has it: its values and their encoding.

    An element takes 4 bytes, and about 12 in JSON. Long answers are encoded in pieces, so the encoding takes at most
    `ENCODED_BYTES`.

    Args:
        request: the request.
        info: description of the model.
    """
    inputs = request.inputs
    if (
        request.output == "token_vectors"
        or request.options.splits
        or (info.token_dimension and request.output != "vectors")
    ):
        values = price_of(request, info).memory
    else:
        rows: Sequence[object] = inputs.documents if isinstance(inputs, Pairs) else ()
        if isinstance(inputs, Texts):
            rows = inputs.texts
        elif isinstance(inputs, TokenIds):
            rows = inputs.rows
        values = 4 * len(rows) * info.dimension
    return values + min(3 * values, ENCODED_BYTES)


def charged_tokens(request: EmbedRequest, info: ModelInfo) -> int:
    """Return the tokens that a client is charged for a request until their real number is known.

    Args:
        request: the request.
        info: description of the model.
    """
    inputs = request.inputs
    if isinstance(inputs, Texts) and not request.options.splits:  # the common case needs no `Price`
        count = len(inputs.texts)
        return min(int(sum(map(len, inputs.texts)) * CHARGED_RATIO) + count, count * info.max_tokens)
    return price_of(request, info, CHARGED_RATIO).tokens


def price_of_rows(request: RowsRequest, info: ModelInfo) -> Price:
    """Return the cost of rows that are tokenized; its tokens are exact."""
    encodings = request.encodings
    rows, tokens = len(encodings), encodings.num_tokens
    values = (rows if request.rows is None else request.rows.count(encodings)) * info.width(request.output)
    return Price(0, tokens, rows, tokens, 4 * values + 8 * tokens)


def is_bulk(inputs: Inputs) -> bool:
    """Return whether a request of this size is a bulk request unless its client names a class."""
    if isinstance(inputs, TokenIds):
        return len(inputs.rows) > BULK_TEXTS or sum(map(len, inputs.rows)) > BULK_TOKENS
    if isinstance(inputs, Pairs):
        characters = sum(map(len, inputs.documents)) + sum(map(len, inputs.queries))
        return len(inputs.documents) > BULK_TEXTS or characters > BULK_CHARACTERS
    return len(inputs.texts) > BULK_TEXTS or sum(map(len, inputs.texts)) > BULK_CHARACTERS
