"""Admin API: list, load, replace and unload models, and divide requests among the versions of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from ...errors import FieldError, MediaTypeError, UnknownModelError
from ...json_bodies import decode
from ...models.admin_action import AdminAction
from ...models.changes import AdminRules, unloading
from ...models.loads import on_thread
from ...models.spec import ModelSpec
from ..call import JSON, Call, Response
from ..route import Doc, Route

__all__ = ["admin_routes"]

PREFIX = "/admin/models/"

#: Characters of a name or a folder that the log keeps.
LOGGED_CHARACTERS = 256


class ModelState(ModelSpec, frozen=True, kw_only=True, omit_defaults=False):
    """One version of a model in its present state: its configuration and its runtime state."""

    output: str
    digest: str
    space: str
    awake: bool
    open_requests: int


class ModelStates(msgspec.Struct, frozen=True, kw_only=True):
    """All versions of all models."""

    models: list[ModelState]


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a version that can change without a reload. A setting that is left out does not change."""

    version: str
    weight: Annotated[float, Meta(ge=0.0, le=1e6)] | None = None
    shadow: bool | None = None
    shadow_share: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of several versions at once, so that a share of the requests moves between two versions in one step."""

    versions: Annotated[list[Share], Meta(min_length=1)]


_shares = msgspec.json.Decoder(Shares)


async def show(call: Call) -> Response:
    """Return all versions of all models."""
    states = msgspec.convert(call.models.describe(), list[ModelState])
    return Response(200, msgspec.json.encode(ModelStates(models=states)))


async def load(call: Call, rules: AdminRules) -> Response:
    """Load a model, or replace the version that has the same name and label. Its canary passes before it answers a request.

    A replaced version keeps the settings that the body leaves out: its aliases, its share and its load options.
    """
    spec, names = rules.loading(await _json(call))
    await _run(AdminAction("load", spec.path, _who(call), rules.note), partial(call.models.load, spec, names))
    return await show(call)


async def unload(call: Call, rules: AdminRules) -> Response:
    """Unload a model, or one version of it (`name@version`), after the requests that it admitted are answered."""
    name = call.scope["path"].removeprefix(PREFIX)
    action = AdminAction("unload", name[:LOGGED_CHARACTERS], _who(call), rules.note)
    await _run(action, partial(call.models.edit, unloading(name)))
    return await show(call)


async def share(call: Call, rules: AdminRules) -> Response:
    """Change the shares of requests that the versions of a model get."""
    name = call.scope["path"].removeprefix(PREFIX)
    shares = {settings.version: settings for settings in decode(_shares, await _json(call)).versions}

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        versions = {spec.version for spec in specs if spec.name == name}
        if not versions:
            raise UnknownModelError(
                f"there is no model {name!r}; the models are {', '.join(spec.name for spec in specs)}"
            )
        if unknown := set(shares) - versions:
            raise FieldError(
                f"{name} has no version {sorted(unknown)[0]!r}; it has {', '.join(sorted(versions))}", "versions"
            )
        return [
            _shared(spec, shares[spec.version]) if spec.name == name and spec.version in shares else spec
            for spec in specs
        ]

    action = AdminAction("share", name[:LOGGED_CHARACTERS], _who(call), rules.note)
    await _run(action, partial(call.models.edit, change))
    return await show(call)


def _who(call: Call) -> dict[str, str]:
    return {"request_id": call.draft.id, "client": call.client, "peer": call.draft.peer}


def _shared(spec: ModelSpec, share: Share) -> ModelSpec:
    """Return a specification with the settings of a share."""
    settings = {"weight": share.weight, "shadow": share.shadow, "shadow_share": share.shadow_share}
    return msgspec.structs.replace(spec, **{name: value for name, value in settings.items() if value is not None})


async def _json(call: Call) -> bytes:
    """Return the body. Its media type must be JSON, because the form of a website cannot send that type.

    Raises:
        MediaTypeError: the body has another media type.
    """
    kind = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != JSON:
        raise MediaTypeError(
            "the admin API reads application/json only: send the header `Content-Type: application/json`"
        )
    return await call.body()


async def _run(action: AdminAction, work: Callable[[], None]) -> None:
    """Apply a change of the models, and log who asked for it, from where, and its result.

    Args:
        action: the change, for the logs.
        work: makes the change.

    Raises:
        FletcherError: the change failed; the models are the same as before.
    """
    # A change that has begun is completed even if its client disconnects: a half-finished change would be worse. It has a
    # thread of its own, so that a folder that hangs keeps no thread from other requests.
    await asyncio.shield(asyncio.wrap_future(on_thread(partial(action.run, work), "fletcher-admin")))


def admin_routes(rules: AdminRules) -> list[Route]:
    """Return the routes.

    Args:
        rules: folders that may be loaded.
    """
    errors = (403, 404, 409, 415)
    return [
        Route(
            "GET",
            "/admin/models",
            show,
            Doc("adminModels", "List all versions of all models", None, ModelStates, errors=(403,)),
            access="admin",
        ),
        Route(
            "POST",
            "/admin/models",
            partial(load, rules=rules),
            Doc(
                "adminLoad",
                "Load a model, or replace one",
                ModelSpec,
                ModelStates,
                example={"path": "/srv/models/minilm", "name": "minilm", "version": "2"},
                errors=errors,
            ),
            access="admin",
        ),
        Route(
            "PATCH",
            PREFIX + "{name}",
            partial(share, rules=rules),
            Doc(
                "adminShare",
                "Change the shares of requests that the versions of a model get",
                Shares,
                ModelStates,
                example={"versions": [{"version": "1", "weight": 0.9}, {"version": "2", "weight": 0.1}]},
                errors=errors,
            ),
            access="admin",
        ),
        Route(
            "DELETE",
            PREFIX + "{name}",
            partial(unload, rules=rules),
            Doc("adminUnload", "Unload a model or a version", None, ModelStates, errors=(403, 404)),
            access="admin",
        ),
    ]
