"""`POST /v1/ingest`: embed documents and store them in Longbow. The answer is sent after Longbow acknowledged them."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from fletcher.runtime.errors import DeadlineError, OverloadedError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ...engine.embed_request import EmbedRequest, refusing_long
from ...engine.fairness.shares import OCCUPIED
from ...engine.fairness.turn_pool import TurnPool
from ...engine.price import charged_tokens
from ...errors import FieldError
from ...json_bodies import decode
from ...longbow.ingest_request import MAX_DOCUMENTS, Document, IngestAnswer, require
from ..call import Call, Response
from ..route import Doc, Route

if TYPE_CHECKING:
    from ...longbow.door import LongbowDoor

__all__ = ["IngestRequest", "longbow_routes"]

#: Largest number of requests that wait for Longbow, each on a separate thread, and of requests that wait for a thread. One
#: client may have `OCCUPIED` of them.
CALLS, WAITING = 16, 64


class IngestRequest(EmbedOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/ingest`."""

    dataset: Annotated[str, Meta(description="Dataset in Longbow; it is created on first use.")]
    documents: Annotated[list[Document | str], Meta(description="Documents to embed and store.")]
    model: Annotated[str | None, Meta(description="Name of the served model. Default: the only model.")] = None

    def __post_init__(self) -> None:
        """Check nothing: msgspec has checked the fields while it decoded them."""


_decoder = msgspec.json.Decoder(IngestRequest)


def longbow_routes(door: LongbowDoor | None) -> list[Route]:
    """Return the route.

    Args:
        door: connection to Longbow. If it is None, the route returns 404 with the option that sets the address of Longbow.
    """
    pool = TurnPool(CALLS, "fletcher-ingest")
    waiting: Counter[str] = Counter()

    async def ingest(call: Call) -> Response:
        """Embed documents and store them."""
        request = decode(_decoder, await call.body())
        limit = call.limits.most_items(MAX_DOCUMENTS)
        if len(request.documents) > limit:
            raise FieldError(
                f"documents has {len(request.documents)} items; the limit is {limit}: use fletcher-serve ingest",
                "documents",
            )
        longbow = require(door)
        client, open_requests = call.terms.client, waiting.total()
        if open_requests >= CALLS + WAITING or waiting[client] >= OCCUPIED * (CALLS + WAITING):
            raise OverloadedError(
                f"{open_requests} requests are already waiting for Longbow, {waiting[client]} of them from this client: "
                "retry after 1 s",
                1.0,
            )
        options = EmbedOptions.of(request)
        if call.on_truncate == "refuse":
            options = refusing_long(options)
        documents = [Document(item) if isinstance(item, str) else item for item in request.documents]
        if call.permit is not None:
            call.permit.check_dataset(request.dataset)
            version = call.pick(request.model)
            texts = Texts(tuple(document.text for document in documents))
            await call.pace(charged_tokens(EmbedRequest(texts, options), version.info))
        work = partial(
            longbow.ingest,
            call.models,
            request.model,
            request.dataset,
            documents,
            options,
            call.stream_terms(),
            call.draft,
        )
        waiting[client] += 1
        try:
            async with asyncio.timeout(call.timeout):
                answer = await asyncio.wrap_future(pool.submit(client, work))
        except TimeoutError:
            raise DeadlineError(
                f"the request's {call.timeout:g} s (X-Request-Timeout) passed before Longbow acknowledged it; the rows may "
                "still arrive"
            ) from None
        finally:
            waiting[client] -= 1
            if not waiting[client]:
                del waiting[client]
        call.draft.space = answer.space
        return Response(200, msgspec.json.encode(answer))

    doc = Doc(
        "ingest",
        "Embed documents and store them in a dataset of Longbow",
        IngestRequest,
        IngestAnswer,
        text=f"At most {MAX_DOCUMENTS} documents. An answer means that Longbow has acknowledged the rows. "
        "After an error, some "
        "rows may be stored. Ids that are not given are derived from the content, so a repeated request has the same ids.",
        errors=(404,),
        example={
            "dataset": "docs",
            "documents": ["A text.", {"text": "Another.", "id": 7, "metadata": {"lang": "en"}}],
        },
    )
    return [Route("POST", "/v1/ingest", ingest, doc)]
