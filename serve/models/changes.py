"""Changes of a server's models, as functions on the list of specifications. HTTP and Flight use them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import ForbiddenError, UnknownModelError
from .spec import ModelSpec

__all__ = ["AdminDoor", "AdminRules", "Change", "loading", "unloading"]

#: Place of the admin API: `off` nowhere, `on` beside the other APIs, `only` alone on an address of its own.
AdminDoor = Literal["off", "on", "only"]

Change = Callable[[list[ModelSpec]], list[ModelSpec]]


@dataclass(frozen=True, slots=True)
class AdminRules:
    """Rules of the admin API.

    Attributes:
        door: place of the API.
        root: folder whose artifacts it may load; None if it may load nothing.
    """

    door: AdminDoor = "off"
    root: Path | None = None

    def confine(self, spec: ModelSpec) -> ModelSpec:
        """Return a specification whose folder is absolute and in the root, with all links followed.

        Raises:
            ForbiddenError: the folder is elsewhere, or there is no root.
        """
        if self.root is None:
            raise ForbiddenError(
                "this server loads no models by its admin API: start it with --models-root FOLDER, the folder that has them"
            )
        root = self.root.resolve()
        if "\0" in spec.path:
            raise ForbiddenError("the path of the model has a character that no file name has")
        folder = (root / spec.path).resolve()
        if not folder.is_relative_to(root):
            raise ForbiddenError(f"{spec.path} is not in the folder of --models-root")
        return msgspec.structs.replace(spec, path=str(folder))


def loading(spec: ModelSpec, fields: Collection[str]) -> Change:
    """Return a change that adds a version, or replaces the version with the same name and label.

    Args:
        spec: specification of the version, with its name.
        fields: names of the fields that the operator set; null means the default. A replaced version keeps its other fields.
            Names of unknown fields, which must be null, are left out.
    """

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        if any(old.key == spec.key for old in specs):
            changes = {name: getattr(spec, name) for name in fields if name in spec.__struct_fields__}
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
