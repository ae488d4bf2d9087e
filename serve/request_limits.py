"""Limits of what one request becomes: tokens, chunks, pairs and memory. Each is checked before the work that it bounds."""

from __future__ import annotations

from typing import Final

from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Pairs
from fletcher.runtime.options.embed import EmbedOptions

from .errors import TooLargeError

__all__ = ["check_chunks", "check_pairs", "check_tokens", "too_large"]

#: Largest number of characters of a text of a pair, and of all pairs of a request. They take seconds to tokenize.
MAX_PAIR_CHARACTERS: Final = 1 << 18
MAX_PAIRS_CHARACTERS: Final = 1 << 24

#: Largest number of tokens of a request with late chunking, which holds the states of all of them: 200 MB for 384 dimensions.
MAX_LATE_TOKENS: Final = 1 << 17

#: Largest number of chunks in an answer: those of a text are encoded together, 50 MB of JSON with 384 dimensions.
MAX_CHUNKS: Final = 1 << 14


def too_large(memory: int, limit: int) -> TooLargeError:
    """Return the error about a request that would take more memory than all requests may.

    Args:
        memory: bytes that the request would take.
        limit: bytes that all open requests may take.
    """
    return TooLargeError(
        f"the request would take about {memory >> 20} MiB of memory; the limit is {limit >> 20} MiB: send fewer texts in one "
        "request"
    )


def check_pairs(pairs: Pairs, characters: int) -> None:
    """Reject pairs that take too much to tokenize: a pair is cut afterwards, and the query is tokenized in every pair.

    Args:
        pairs: the pairs.
        characters: number of characters of all pairs.

    Raises:
        TooLargeError: a text, or all pairs together, have too many characters.
    """
    query = pairs.query
    queries = [query] if isinstance(query, str) else query
    longest = max(map(len, (*queries, *pairs.documents)), default=0)
    if longest > MAX_PAIR_CHARACTERS:
        raise TooLargeError(
            f"a text of a pair has {longest} characters; the limit is {MAX_PAIR_CHARACTERS}: shorten it, because the model "
            "reads only its beginning"
        )
    if characters > MAX_PAIRS_CHARACTERS:
        raise TooLargeError(
            f"the pairs have {characters} characters, with the query in each; the limit is {MAX_PAIRS_CHARACTERS}: send "
            "fewer documents in one request, or a shorter query"
        )


def check_chunks(options: EmbedOptions, tokens: int, rows: int) -> None:
    """Reject a request whose texts become too many chunks: each has a vector in the answer.

    Args:
        options: options of a request with windows or late chunking.
        tokens: number of its tokens.
        rows: number of its rows to compute.

    Raises:
        TooLargeError: the answer would have too many chunks.
    """
    chunks = tokens // options.chunk if options.overflow == "late" else rows
    if chunks > MAX_CHUNKS:
        raise TooLargeError(
            f"the answer would have about {chunks} chunks; the limit is {MAX_CHUNKS}: send fewer texts in one request, or "
            "take larger windows or chunks"
        )


def check_tokens(limit: int | None, count: int, *, by_token: bool = False) -> None:
    """Reject a request that is too large.

    Args:
        limit: tokens that a request may have the model compute; None for no limit.
        count: tokens of the request.
        by_token: whether a row of values is kept for each token.

    Raises:
        TooLargeError: the request has more tokens than the limit of a request.
        InputError: the request has more tokens than late chunking can hold the states of.
    """
    if limit is not None and count > limit:
        raise TooLargeError(f"the request has {count} tokens to compute; the limit is {limit}: send several requests")
    if by_token and count > MAX_LATE_TOKENS:
        raise InputError(
            f"the request needs the states of {count} tokens; the limit is {MAX_LATE_TOKENS}: send fewer texts in one "
            "request, or use windows"
        )
