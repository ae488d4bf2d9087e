"""What an operator may change of a server's models, as changes of the list of specifications; both doors offer them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from ..errors import UnknownModelError
from .spec import ModelSpec

__all__ = ["Change", "loading", "unloading"]

Change = Callable[[list[ModelSpec]], list[ModelSpec]]


def loading(spec: ModelSpec, said: Collection[str]) -> Change:
    """Adds a version, or exchanges the one that has its name and label.

    Args:
        spec: with its name.
        said: the fields that were said of it; of a version that is exchanged, the others stay.
    """

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        if any(known.key == spec.key for known in specs):
            merged = {name: getattr(spec, name) for name in said}
            return [msgspec.structs.replace(known, **merged) if known.key == spec.key else known for known in specs]
        return [*specs, spec]

    return change


def unloading(name: str) -> Change:
    """Takes a model out, or one version of it by `name@version`.

    The change raises `UnknownModelError` where there is none.
    """
    called, at, label = name.rpartition("@")

    def change(specs: list[ModelSpec]) -> list[ModelSpec]:
        left = [spec for spec in specs if spec.name != name and not (at and spec.key == (called, label))]
        if len(left) == len(specs):
            raise UnknownModelError(f"there is no model {name!r}; there are {', '.join(spec.name for spec in specs)}")
        return left

    return change
