"""`GET /v1/space`: the space of a model's vectors, its parts and bounds, and texts with vectors that check a server."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta

from fletcher.runtime.canary import Canary
from fletcher.runtime.space.bounds import Bounds
from fletcher.runtime.space.space import Space

from ...models.named import NamedModel
from ...models.version import ModelVersion
from ..call import Call, Response
from ..route import Doc, Route

__all__ = ["space_answer", "space_routes"]


class CanaryTexts(msgspec.Struct, frozen=True, kw_only=True):
    """Texts and the vectors that every server of the space gives for them, within its bounds."""

    origin: Annotated[str, Meta(description="Origin of the vectors.")]
    texts: Annotated[list[str], Meta(description="Texts with their prompts: embed them with input type `raw`.")]
    queries: Annotated[list[str], Meta(description="Query of each text, for a reranker; else empty.")]
    token_ids: Annotated[list[list[int]], Meta(description="Token ids of each text, special tokens included.")]
    vectors: Annotated[
        list[Any],
        Meta(
            description="For each text its vector or scores; for SPLADE a list of {index, value}, for ColBERT a vector per "
            "token."
        ),
    ]


class SpaceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /v1/space`."""

    space: Annotated[str, Meta(description="Identifier of the model's space.")]
    model: str
    version: str
    variant: str
    provider: str
    digest: Annotated[str, Meta(description="Digest of the artifact's files, which may differ between equal spaces.")]
    parts: Annotated[Space, Meta(description="Everything that decides a vector. The identifier is a hash of it.")]
    bounds: Annotated[Bounds | None, Meta(description="How far two vectors of the space may differ.")]
    canary: CanaryTexts


class SpaceQuery(msgspec.Struct, frozen=True):
    """Query of `GET /v1/space`."""

    model: Annotated[
        str | None, Meta(description="Name of a served model, or `name@version`. Default: the first one.")
    ] = None


def space_answer(version: ModelVersion, canary: Canary) -> SpaceAnswer:
    """Return the description of the space of a version.

    Args:
        version: the version.
        canary: texts and vectors of its artifact.
    """
    served, info = version.description, version.info
    return SpaceAnswer(
        space=version.spaces.base,
        model=served.name,
        version=served.version,
        variant=served.variant,
        provider=served.provider,
        digest=served.digest,
        parts=info.space,
        bounds=info.bounds,
        canary=_canary_texts(canary, info.space.output),
    )


def _canary_texts(canary: Canary, output: str) -> CanaryTexts:
    bounds = list(pairwise(canary.encodings.offsets.tolist()))
    vectors: list[Any] = canary.vectors.tolist()
    if output == "sparse":
        vectors = [[{"index": i, "value": v} for i, v in enumerate(row) if v] for row in vectors]
    elif output == "token_vectors":
        vectors = [vectors[start:end] for start, end in bounds]
    ids = canary.encodings.ids.tolist()
    return CanaryTexts(
        origin=canary.origin,
        texts=list(canary.texts),
        queries=list(canary.queries),
        token_ids=[ids[start:end] for start, end in bounds],
        vectors=vectors,
    )


async def space(call: Call) -> Response:
    """Return the space of a model."""
    query = parse_qs(call.scope["query_string"].decode("latin-1"))
    name = query.get("model", [""])[-1]
    entry: NamedModel | ModelVersion = call.models.find(name) if name else call.models.named[0]
    version = entry.answering[0] if isinstance(entry, NamedModel) else entry
    engine = version.engine
    if engine is None:
        engine = await asyncio.wrap_future(version.wake_soon())
    answer = space_answer(version, engine.backend.reference_canary())
    header = (b"x-space", answer.space.encode())
    return Response(200, msgspec.json.encode(answer), headers=(header,))


def space_routes() -> list[Route]:
    """Return the route."""
    doc = Doc(
        "space",
        "Describe the space of a model's vectors",
        None,
        SpaceAnswer,
        text="Vectors of equal identifiers can be compared, whatever server, provider or version gave them. The texts and "
        "vectors of `canary` check a server later.",
        query=SpaceQuery,
        headers={"x-space": "Identifier of the model's space"},
        errors=(404,),
    )
    return [Route("GET", "/v1/space", space, doc)]
