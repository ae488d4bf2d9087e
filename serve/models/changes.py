"""Changes of a server's models, as changes of the list of specifications; HTTP and Flight offer them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from ..errors import UnknownModelError
from .spec import ModelSpec

__all__ = ["Change", "loading", "unloading"]

Change = Callable[[list[ModelSpec]], list[ModelSpec]]


def loading(spec: ModelSpec, said: Collection[str]) -> Change:
    """Return a change that adds a version, or exchanges the one that has its name and label.

    Args:
        spec: the version's specification, with its name.
        said: fields that the operator gave; the other fields of an exchanged version stay.
    """

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        if any(known.key == spec.key for known in specs):
            merged = {name: getattr(spec, name) for name in said}
            return [msgspec.structs.replace(known, **merged) if known.key == spec.key else known for known in specs]
        return [*specs, spec]

    return change


def unloading(name: str) -> Change:
    """Return a change that removes a model, or one version of it by `name@version`.

    The change raises `UnknownModelError` if the model does not exist.
    """
    called, at, label = name.rpartition("@")

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        left = [spec for spec in specs if spec.name != name and not (at and spec.key == (called, label))]
        if len(left) == len(specs):
            raise UnknownModelError(f"there is no model {name!r}; there are {', '.join(spec.name for spec in specs)}")
        return left

    return change
