"""The admin API: which models there are, load, exchange, unload, and how requests are shared between versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fletcher.runtime.errors import ArtifactError, FletcherError, InputError, ServiceError

from ...errors import FieldError, MediaTypeError, UnknownModelError
from ...json_bodies import decode
from ...models.changes import loading, unloading
from ...models.spec import ModelSpec
from ..call import JSON, Call, Response
from ..routes import Doc, Route

__all__ = ["admin_routes"]

logger = logging.getLogger("fletcher.serve.admin")

PREFIX = "/admin/models/"


class ModelState(ModelSpec, frozen=True, kw_only=True, omit_defaults=False):
    """One version of a model as it is now: its configuration, and its state."""

    output: str
    digest: str
    awake: bool
    open_requests: int


class ModelStates(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    models: list[ModelState]


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What can change without a load; what is left out stays."""

    version: str
    weight: Annotated[float, Meta(ge=0.0, le=1e6)] | None = None
    shadow: bool | None = None
    shadow_share: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of several versions at once, so that a share moves from one to another in one step."""

    versions: Annotated[list[Share], Meta(min_length=1)]


_spec = msgspec.json.Decoder(ModelSpec)
_shares = msgspec.json.Decoder(Shares)


async def show(call: Call) -> Response:
    """Every version of every model."""
    states = msgspec.convert(call.models.describe(), list[ModelState])
    return Response(200, msgspec.json.encode(ModelStates(models=states)))


async def load(call: Call) -> Response:
    """Loads a model, or exchanges the version that has its name and label: its canary passes before it answers anybody.

    Of a version that is exchanged, what the body does not say stays: its aliases, its share, how it runs.
    """
    body = await _json(call)
    spec = decode(_spec, body)
    said = {"name", *msgspec.json.decode(body)}
    loop = asyncio.get_running_loop()
    try:
        spec = await loop.run_in_executor(None, spec.named)
    except ArtifactError as error:
        raise FieldError(str(error), "path") from error

    await _edit(call, "load", loading(spec, said), reload=frozenset([spec.key]))
    return await show(call)


async def unload(call: Call) -> Response:
    """Unloads a model, or one version of it by `name@version`; what it admitted is answered."""
    name = call.scope["path"].removeprefix(PREFIX)
    await _edit(call, "unload", unloading(name))
    return await show(call)


async def share(call: Call) -> Response:
    """Changes how requests are shared between a model's versions."""
    name = call.scope["path"].removeprefix(PREFIX)
    wanted = {each.version: each for each in decode(_shares, await _json(call)).versions}

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        known = {spec.version for spec in specs if spec.name == name}
        if not known:
            raise UnknownModelError(f"there is no model {name!r}; there are {', '.join(spec.name for spec in specs)}")
        if unknown := set(wanted) - known:
            raise FieldError(
                f"{name} has no version {sorted(unknown)[0]!r}; it has {', '.join(sorted(known))}", "versions"
            )
        return [
            _shared(spec, wanted[spec.version]) if spec.name == name and spec.version in wanted else spec
            for spec in specs
        ]

    await _edit(call, "share", change)
    return await show(call)


def _shared(spec: ModelSpec, wanted: Share) -> ModelSpec:
    said = {"weight": wanted.weight, "shadow": wanted.shadow, "shadow_share": wanted.shadow_share}
    return msgspec.structs.replace(spec, **{name: value for name, value in said.items() if value is not None})


async def _json(call: Call) -> bytes:
    """The body, which must say that it is JSON: a form that a website posts cannot."""
    kind = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != JSON:
        raise MediaTypeError("the admin API takes application/json: send the header Content-Type")
    return await call.body()


async def _edit(
    call: Call,
    what: str,
    change: Callable[[list[ModelSpec]], Sequence[ModelSpec]],
    *,
    reload: frozenset[tuple[str, str]] = frozenset(),
) -> None:
    fields: dict[str, Any] = {"request_id": call.draft.id, "client": call.client, "change": what}
    logger.info("admin", extra={"fields": fields})
    # A change that began goes through, also if its client leaves: half of one would be worse.
    loop = asyncio.get_running_loop()
    try:
        await asyncio.shield(loop.run_in_executor(None, partial(call.models.edit, change, reload=reload)))
    except (InputError, ServiceError):
        raise
    except FletcherError as error:  # an artifact that cannot be served: the operator's to read, and to mend
        raise FieldError(str(error), "path") from error


def admin_routes() -> list[Route]:
    """The routes."""
    said: dict[str, Any] = {"errors": (403, 404, 415)}
    return [
        Route(
            "GET",
            "/admin/models",
            show,
            Doc("adminModels", "Every version", None, ModelStates, errors=(403,)),
            access="admin",
        ),
        Route(
            "POST",
            "/admin/models",
            load,
            Doc(
                "adminLoad",
                "Load a model, or exchange one",
                ModelSpec,
                ModelStates,
                example={"path": "/srv/models/minilm", "name": "minilm", "version": "2"},
                **said,
            ),
            access="admin",
        ),
        Route(
            "PATCH",
            PREFIX + "{name}",
            share,
            Doc(
                "adminShare",
                "Share requests between versions",
                Shares,
                ModelStates,
                example={"versions": [{"version": "1", "weight": 0.9}, {"version": "2", "weight": 0.1}]},
                **said,
            ),
            access="admin",
        ),
        Route(
            "DELETE",
            PREFIX + "{name}",
            unload,
            Doc("adminUnload", "Unload a model or a version", None, ModelStates, errors=(403, 404)),
            access="admin",
        ),
    ]
