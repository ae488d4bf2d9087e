"""Changes of a server's models, as functions on the list of specifications. HTTP and Flight use them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.remote.url import ArtifactUrl, is_url, parse_url

from ..errors import ForbiddenError, UnknownModelError
from ..json_bodies import decode
from .admin_action import Note
from .spec import ModelSpec, require_given

__all__ = ["ADMIN_OFF", "AdminDoor", "AdminRules", "Change", "loading", "unloading"]

#: Place of the admin API: `off` nowhere, `on` beside the other APIs, `only` alone on an address of its own.
AdminDoor = Literal["off", "on", "only"]

Change = Callable[[list[ModelSpec]], list[ModelSpec]]

_spec = msgspec.json.Decoder(ModelSpec)


@dataclass(frozen=True, slots=True)
class AdminRules:
    """Rules of the admin API.

    Attributes:
        door: place of the API.
        root: folder or URL whose artifacts it may load; None if it may load nothing.
        note: receives every change and its result; None without an audit log.
    """

    door: AdminDoor = "off"
    root: Path | ArtifactUrl | None = None
    note: Note | None = None

    def loading(self, body: bytes) -> tuple[ModelSpec, set[str]]:
        """Return the specification in the body of a request that loads a model, and the names of its fields.

        Raises:
            FieldError: the body is not a specification.
            ForbiddenError, InputError: as for `confine`.
        """
        spec = self.confine(decode(_spec, body))
        return spec, {"name", *decode_json(body, dict[str, object])}

    def confine(self, spec: ModelSpec) -> ModelSpec:
        """Return a specification whose folder is absolute and in the root, with all links followed, or whose URL is below it.

        Raises:
            ForbiddenError: the folder or the URL is elsewhere, or there is no root.
            InputError: the URL is malformed, or the specification has a field that only the server sets.
        """
        require_given(spec)
        if self.root is None:
            raise ForbiddenError(
                "this server loads no models by its admin API: start it with --models-root FOLDER, the folder that has them"
            )
        if isinstance(self.root, ArtifactUrl):
            url = parse_url(spec.path) if is_url(spec.path) else self.root.child(spec.path)
            if not url.is_below(self.root):
                raise ForbiddenError(f"{spec.path} is not below the URL of --models-root")
            return msgspec.structs.replace(spec, path=str(url))
        if is_url(spec.path):
            raise ForbiddenError("the path of the model is a URL, and --models-root is a folder of this server")
        root = self.root.resolve()
        if "\0" in spec.path:
            raise ForbiddenError("the path of the model has a character that no file name has")
        folder = (root / spec.path).resolve()
        if not folder.is_relative_to(root):
            raise ForbiddenError(f"{spec.path} is not in the folder of --models-root")
        return msgspec.structs.replace(spec, path=str(folder))


#: Rules of a server without the admin API.
ADMIN_OFF: Final = AdminRules()


def loading(spec: ModelSpec, fields: Collection[str]) -> Change:
    """Return a change that adds a version, or replaces the version with the same name and label.

    Args:
        spec: specification of the version, with its name.
        fields: names of the fields that the operator set; null means the default. A replaced version keeps its other fields.
            Names of unknown fields, which must be null, are left out.
    """

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        if any(old.key == spec.key for old in specs):
            # A folder that was downloaded comes with its URL; another folder has none.
            replaced = {*fields, "source"} if "path" in fields else fields
            changes = {name: getattr(spec, name) for name in replaced if name in spec.__struct_fields__}
            return [msgspec.structs.replace(old, **changes) if old.key == spec.key else old for old in specs]
        return [*specs, spec]

    return change


def unloading(name: str) -> Change:
    """Return a change that removes a model, or one version of it by `name@version`.

    The change raises `UnknownModelError` if the model does not exist.
    """
    model, at, label = name.rpartition("@")

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        remaining = [spec for spec in specs if spec.name != name and not (at and spec.key == (model, label))]
        if len(remaining) == len(specs):
            raise UnknownModelError(
                f"there is no model {name!r}; the models are {', '.join(spec.name for spec in specs)}"
            )
        return remaining

    return change
