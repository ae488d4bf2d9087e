"""`Router`: the modules of each route of a checkpoint, in the order in which a text takes them.

sentence-transformers saves a Router (Asym before version 5) as a folder with a folder for each module of a route, and a
file that names them: `router_config.json`, or `config.json` of an Asym. Modules of the checkpoint before and after the Router
belong to every route.

Source: base/modules/router.py of sentence-transformers 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fletcher.model_zoo.card import RAW
from fletcher.model_zoo.sentence_transformers.files import ROUTERS
from fletcher.runtime.errors import CheckpointError, InputError

from ..json_files import find_json, read_json
from ..sentence_transformers import read_modules
from ..task_adapters import input_type_of

__all__ = ["RouteModule", "Router", "read_router"]

#: Keys of the file's `parameters`. Old versions have the second one alone.
PARAMETERS: Final = frozenset({"default_route", "allow_empty_key", "route_mappings"})

#: Names of the file of a Router's routes, in the order in which sentence-transformers looks for them.
FILES: Final = ("router_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class RouteModule:
    """Module that the texts of a route take.

    Attributes:
        folder: its folder.
        type: dotted name of its class.
    """

    folder: Path
    type: str

    @property
    def kind(self) -> str:
        """Name of its class, without the package."""
        return self.type.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Router:
    """Routes of a checkpoint.

    Attributes:
        folder: the checkpoint.
        file: file that names the modules of the Router.
        routes: modules of each route, those before and after the Router included.
        default: route of texts whose route is not named; None if there is none.
        has_mappings: whether other rules than the routes' names choose a route.
    """

    folder: Path
    file: Path
    routes: Mapping[str, tuple[RouteModule, ...]]
    default: str | None
    has_mappings: bool

    @property
    def input_types(self) -> Mapping[str, str]:
        """Route of each input type: `document` for a route `doc`, and otherwise the route's own name."""
        return {input_type_of(name): name for name in self.routes}

    def describe(self) -> str:
        """Return the kinds of modules of each route, for messages."""
        return "; ".join(
            f"{route}: {', '.join(module.kind for module in modules)}" for route, modules in self.routes.items()
        )

    def require(self, route: str) -> tuple[RouteModule, ...]:
        """Return the modules of a route.

        Raises:
            InputError: there is no such route.
        """
        if route not in self.routes:
            raise InputError(f"--task {route}: {self.folder} has the routes {', '.join(self.routes)}")
        return self.routes[route]


def read_router(folder: Path) -> Router | None:
    """Read the routes of a checkpoint; return None for one without a Router.

    Raises:
        CheckpointError: a file or a folder is missing or malformed, or there are several Routers.
    """
    modules = read_modules(folder)
    places = [index for index, module in enumerate(modules) if module.kind in ROUTERS]
    if not places:
        return None
    if len(places) > 1:
        raise CheckpointError(f"{folder / 'modules.json'} has several Routers, and Fletcher reads one")
    place = modules[places[0]].folder
    file = next((place / name for name in FILES if find_json(place / name)), place / FILES[0])
    inside = _read_routes(file)
    before, after = (
        tuple(RouteModule(module.folder, module.type) for module in part)
        for part in (modules[: places[0]], modules[places[0] + 1 :])
    )
    parameters = read_json(file).get("parameters") or {}
    if unknown := sorted(parameters.keys() - PARAMETERS):
        raise CheckpointError(f"{file}: `parameters` has keys that Fletcher does not know: {', '.join(unknown)}")
    routes = {name: (*before, *own, *after) for name, own in inside.items()}
    if empty := [name for name, own in routes.items() if not own]:
        raise CheckpointError(f"{file}: the route {empty[0]} has no module")
    if RAW in routes:
        raise CheckpointError(
            f"{file}: a route has the name {RAW!r}, the input type without a prompt: rename the route"
        )
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes))
    if default is not None and default not in routes:
        raise CheckpointError(f"{file}: default_route is {default!r}, and the routes are {', '.join(routes)}")
    return Router(folder, file, routes, default, bool(parameters.get("route_mappings")))


def _read_routes(file: Path) -> Mapping[str, tuple[RouteModule, ...]]:
    """Return the modules that a Router has itself, by route."""
    config: Mapping[str, Any] = read_json(file)
    structure, types, parameters = config.get("structure"), config.get("types"), config.get("parameters", {})
    if (
        not isinstance(structure, dict)
        or not structure
        or not isinstance(types, dict)
        or not isinstance(parameters, dict)
        or not all(isinstance(names, list) for names in structure.values())
    ):
        raise CheckpointError(f"{file} has no structure and types of its modules: fetch it again")
    for name in (str(name) for names in structure.values() for name in names):
        if Path(name).name != name or not (file.parent / name).is_dir() or name not in types:
            raise CheckpointError(f"{file} names {name!r}, which is not a folder beside it: fetch the checkpoint again")
    for name in types.values():
        if not str(name).startswith("sentence_transformers."):
            raise CheckpointError(f"{file}: the module {name} is code of another package, which Fletcher does not run")
    return {
        route: tuple(RouteModule(file.parent / str(name), str(types[name])) for name in names)
        for route, names in structure.items()
    }
