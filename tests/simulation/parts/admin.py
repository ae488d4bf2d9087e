"""`Admin`: changes of the models during a run."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import FletcherError
from fletcher.serve.models.registry import Models
from fletcher.serve.models.spec import ModelSpec

from ..stage.world import World
from .weather import ModelWeather, Weather

__all__ = ["Admin"]


class Admin:
    """An admin that exchanges, adds and removes versions.

    Attributes:
        errors: errors of its changes.
        busy: whether a change is under way.
        changed: models that it has tried to change.
    """

    def __init__(self, world: World, models: Models, by_name: dict[str, ModelWeather], weather: Weather) -> None:
        self.errors: list[Exception] = []
        self.busy = False
        self.changed: set[str] = set()
        self._world = world
        self._models = models
        self._names = [name for name, each in by_name.items() if each.changed]
        self._weather = weather

    def run(self) -> None:
        """Make the changes of the weather."""
        for number in range(self._weather.changes if self._names else 0):
            self._world.sleep(self._weather.seconds * self._world.chance.random())
            name = self._world.chance.choice(self._names)
            kind = self._world.chance.choice(["exchange", "exchange", "second", "shadow", "fewer"])
            self.changed.add(name)
            self.busy = True
            try:
                self._models.edit(lambda specs, name=name, kind=kind, number=number: _change(specs, name, kind, number))  # type: ignore[misc]
            except FletcherError as error:
                self.errors.append(error)
                self._world.note(f"admin {kind} {name} {type(error).__name__}")
            else:
                self._world.note(f"admin {kind} {name} ok")
            self.busy = False


def _change(specs: list[ModelSpec], name: str, kind: str, number: int) -> list[ModelSpec]:
    mine = [spec for spec in specs if spec.name == name]
    first = mine[0]
    if kind == "exchange":  # another option of loading, so that it must be loaded again
        return [msgspec.structs.replace(spec, cache=number + 1) if spec is first else spec for spec in specs]
    if kind == "fewer" and len(mine) > 1:
        return [spec for spec in specs if spec is not mine[-1] or spec is first]
    version = f"{number + 2}"
    shadow = kind == "shadow" and not any(spec.shadow for spec in mine)
    return [*specs, msgspec.structs.replace(first, version=version, shadow=shadow)]
