"""Streamed answers as NDJSON: one line for each text, in order. Lines are sent while later texts are being computed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import msgspec

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ..engine.embed_request import EmbedRequest, refusing_long
from ..engine.fairness.read_ahead import ReadAhead
from ..engine.price import charged_tokens
from ..engine.terms import Terms
from ..errors import FieldError
from ..models.version import ModelVersion
from .bridge import ClientLeftError
from .call import Call, Response
from .embedding_items import Usage, embedding_items
from .errors import ErrorShape
from .json import INLINE_VALUES

__all__ = ["MAX_LINES", "NDJSON", "stream"]

logger = logging.getLogger("fletcher.serve.http")

NDJSON = b"application/x-ndjson"

#: Largest number of texts in a streamed request.
MAX_LINES = 65_536

#: Number of texts that are submitted as one piece. The first line is sent after the first piece is computed.
PIECE = 64

_encoder = msgspec.json.Encoder()


async def stream(
    call: Call, name: str | None, texts: Sequence[str], options: EmbedOptions, encoding_format: str, shape: ErrorShape
) -> Response:
    """Send one `EmbeddingItem` line for each text, and a last line with the model and the usage, or with the error.

    The first piece is computed before the status is sent, so that an early error has its own status.

    Raises:
        FletcherError: an error of the first piece.
    """
    most = call.limits.most_items(MAX_LINES)
    if len(texts) > most:
        raise FieldError(
            f"the request has {len(texts)} texts; the limit of a streamed request is {most}: send several requests",
            call.fields.get("input", "input"),
        )
    if call.on_truncate == "refuse":
        options = refusing_long(options)
    pieces = [Texts(tuple(texts[start : start + PIECE])) for start in range(0, len(texts), PIECE)]
    terms = call.stream_terms()
    version, first = await call.ask(name, pieces[0], options, terms=terms)
    answers = _answers(call, version, pieces[1:], options, terms.within(call.draft.space))
    body = _lines(call, version, first, answers, encoding_format, shape)
    return Response(200, body, NDJSON, density="base64" if encoding_format == "base64" else "text")


async def _answers(
    call: Call, version: ModelVersion, pieces: Sequence[Texts], options: EmbedOptions, terms: Terms
) -> AsyncIterator[Embeddings]:
    """Yield the embeddings of the pieces, in order, and keep some pieces in progress.

    Args:
        call: the request.
        version: version that answered the first piece.
        pieces: the other pieces.
        options: options for embedding.
        terms: terms of the first piece.
    """
    waiting: deque[tuple[int, Future[Any]]] = deque()  # with the index of the piece's first text
    left = deque(enumerate(pieces, 1))
    ahead = ReadAhead(version.info)
    try:
        while left or waiting:
            while left and not ahead.full:
                part, texts = left.popleft()
                first, request = PIECE * part, EmbedRequest(texts, options, terms=terms.at(part))
                if call.permit is not None:
                    await call.pace(charged_tokens(request, version.info))
                try:
                    future = call.models.submit(version, request, call.draft)
                except InputError as error:
                    raise call.name_item(error, first) from error
                # The version was replaced or sleeps: the stream continues with another version of the model.
                if future is None:
                    version, answer = await call.ask(
                        version.spec.name, texts, options, terms=request.terms, first=first
                    )
                    while waiting:
                        yield await _wait(call, version, *waiting.popleft(), ahead)
                    yield answer
                    continue
                ahead.begin(texts.texts)
                waiting.append((first, future))
            if waiting:
                yield await _wait(call, version, *waiting.popleft(), ahead)
    finally:
        for _, future in waiting:
            future.cancel()


async def _wait(call: Call, version: ModelVersion, first: int, future: Future[Any], ahead: ReadAhead) -> Embeddings:
    """Return the embeddings of a piece, and count them in the record of the request."""
    try:
        embeddings: Embeddings = await call.bridge.wait(future, call.receive)
    except InputError as error:
        raise call.name_item(error, first) from error
    call.draft.count(version.description.name, version.description.version, embeddings)
    if call.permit is not None:
        await call.correct(int(embeddings.tokens.sum()))
    ahead.end(int(embeddings.tokens.sum()))
    return embeddings


def _encode(embeddings: Embeddings, binary: bool, first_index: int) -> bytes:
    items = embedding_items(embeddings, 0, len(embeddings), binary=binary, first_index=first_index)
    return _encoder.encode_lines(items)


async def _lines(
    call: Call,
    version: ModelVersion,
    first: Embeddings,
    others: AsyncIterator[Embeddings],
    encoding_format: str,
    shape: ErrorShape,
) -> AsyncIterator[bytes]:
    """Yield the lines of the pieces, then the last line. An error after the status was sent becomes the last line."""
    done = tokens = 0
    draft, binary = call.draft, encoding_format == "base64"
    try:
        embeddings: Embeddings | None = first
        while embeddings is not None:
            started = time.perf_counter()
            encode = partial(_encode, embeddings, binary, done)
            many = embeddings.chunks is not None and embeddings.chunks.vectors.size > INLINE_VALUES
            lines = await asyncio.to_thread(encode) if many else encode()
            draft.stages.encode += time.perf_counter() - started
            yield lines
            done += len(embeddings)
            tokens += int(embeddings.tokens.sum())
            embeddings = await anext(others, None)
        usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
        end = {"object": "end", "model": version.description.name, "usage": usage, "space": draft.space}
        yield _encoder.encode(end) + b"\n"
    except ClientLeftError:
        return
    except FletcherError as error:
        draft.error = type(error).__name__
        fields = {"request_id": draft.id, "error": draft.error, "reason": str(error)}
        logger.warning("stream failed", extra={"fields": fields})
        yield shape.encode(error, draft.id) + b"\n"
