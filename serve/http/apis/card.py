"""`GET /v1/card`: the card of a model, its variants with their accuracy, and its calibration."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.calibration import Calibration
from fletcher.runtime.model_info import VariantInfo

from ...models.named import NamedModel
from ...models.version import ModelVersion
from ..call import Call, Response
from ..route import Doc, Route

__all__ = ["card_routes"]


class CardAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /v1/card`."""

    model: str
    version: str
    card: Annotated[ModelCard, Meta(description="Published settings of the model.")]
    variant: Annotated[str, Meta(description="Name of the variant that runs.")]
    variants: Annotated[list[VariantInfo], Meta(description="Graphs of the artifact, with their measured accuracy.")]
    calibration: Annotated[
        Calibration | None, Meta(description="Function from similarities, or logits, to probabilities.")
    ]


class CardQuery(msgspec.Struct, frozen=True):
    """Query of `GET /v1/card`."""

    model: Annotated[
        str | None, Meta(description="Name of a served model, or `name@version`. Default: the first one.")
    ] = None


async def card(call: Call) -> Response:
    """Return the card of a model."""
    query = parse_qs(call.scope["query_string"].decode("latin-1"))
    name = query.get("model", [""])[-1]
    entry: NamedModel | ModelVersion = call.models.find(name) if name else call.models.named[0]
    version = entry.answering[0] if isinstance(entry, NamedModel) else entry
    served, info = version.description, version.info
    answer = CardAnswer(
        model=served.name,
        version=served.version,
        card=info.card,
        variant=info.variant,
        variants=list(info.variants),
        calibration=info.calibration,
    )
    return Response(200, msgspec.json.encode(answer))


def card_routes() -> list[Route]:
    """Return the route."""
    doc = Doc(
        "card",
        "Describe a model: its card, its variants and its calibration",
        None,
        CardAnswer,
        text="The settings that the model's authors published, the variants of the artifact with the accuracy that a "
        "comparison measured, and the calibration if the artifact has one.",
        query=CardQuery,
        errors=(404,),
    )
    return [Route("GET", "/v1/card", card, doc)]
