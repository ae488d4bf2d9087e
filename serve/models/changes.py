"""Changes of a server's models, as functions on the list of specifications. HTTP and Flight use them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from ..errors import UnknownModelError
from .spec import ModelSpec

__all__ = ["Change", "loading", "unloading"]

Change = Callable[[list[ModelSpec]], list[ModelSpec]]


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
