"""Checkpoints with a Router in the layout that the rest of the exporter reads: one list of modules beside an encoder.

A route alone is a model as any other. A model whose queries need no encoder is the documents' branch with the queries'
table. A model whose routes share the encoder and the pooling is the branch of the default route, with the branches of all
routes in folders of their own: `route_folders` finds them.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fletcher.model_zoo.card import INPUT_TYPES, RAW, ModelCard
from fletcher.model_zoo.errors import CardError
from fletcher.runtime.errors import CheckpointError

from ..json_files import find_json
from ..task_adapters import input_type_of, tasks_of
from .query_table import VECTORS, WEIGHTS, add_queries, has_query_table
from .router import RouteModule, Router, read_router

__all__ = [
    "chosen_task",
    "explain_routes",
    "route_encoder",
    "route_folders",
    "route_types",
    "routed_layout",
    "task_names",
]

#: Folder of the branches in the layout of a model whose texts choose their route, and file of the names there.
BRANCHES, NAMES = ".routes", "routes.json"

ENCODERS: Final = ("Transformer", "MLMTransformer")

#: Modules that are the identity when a model does not train.
IDLE: Final = ("Dropout",)


@contextlib.contextmanager
def routed_layout(folder: Path, task: str | None = None) -> Iterator[Path]:
    """Give a checkpoint with a Router the layout of a model with one list of modules; give any other folder as it is.

    Args:
        folder: the checkpoint.
        task: the route whose modules are taken; None for all of them. It means nothing without a Router.

    Raises:
        InputError: there is no such route.
        CheckpointError: the routes cannot be in one artifact, or a module is not what is expected.
    """
    router = read_router(folder)
    if router is None:
        yield folder
        return
    if router.has_mappings:
        raise CheckpointError(
            f"{router.file} has `route_mappings`, by which kinds of inputs choose their route; Fletcher reads texts alone, "
            f"whose route is that of their task. It has the routes {router.describe()}"
        )
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        if task is not None:
            chosen = router.require(task)
            _write_branch(view, router, chosen)
        elif has_query_table(router):
            chosen = router.routes["document"]
            _require_default(router)
            _write_branch(view, router, chosen)
            add_queries(view, router)
        else:
            chosen = router.routes[_require_default(router)]
            if not _shares_encoder(router):
                raise CheckpointError(_explain_encoders(router))
            shared = _shared(router)
            _write_branch(view, router, chosen, shared)
            for number, modules in enumerate(router.routes.values()):
                _write_branch(view / BRANCHES / str(number), router, modules, shared)
            settings = {"types": list(map(input_type_of, router.routes)), "default": input_type_of(str(router.default))}
            (view / BRANCHES / NAMES).write_text(json.dumps(settings), encoding="utf-8")
        try:
            yield view
        except (CardError, CheckpointError) as error:  # a message names the user's folder, not the temporary one
            raise type(error)(str(error).replace(str(view), str(chosen[0].folder))) from error


def route_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folder of each route's branch, by their numbers, of a folder that `routed_layout` gave for all of them."""
    names = find_json(folder / BRANCHES / NAMES).get("types", ())
    return tuple(folder / BRANCHES / str(number) for number in range(len(names)))


def route_types(folder: Path, card: ModelCard) -> Mapping[str, int]:
    """Return the number of the route of each input type, of a folder that `routed_layout` gave for all routes.

    Args:
        folder: the folder.
        card: card of the model, whose prompts are input types too. They take the default route, as `raw` does.
    """
    settings = find_json(folder / BRANCHES / NAMES)
    if not settings:
        return {}
    numbers = {name: number for number, name in enumerate(settings["types"])}
    default = numbers[settings["default"]]
    return {**dict.fromkeys((*INPUT_TYPES, *card.prompts, RAW), default), **numbers}


def route_encoder(folder: Path, input_type: object = None) -> Path | None:
    """Return the folder of the encoder of a checkpoint with a Router; None for a checkpoint without one.

    Args:
        folder: the checkpoint.
        input_type: the only input type of the artifact, if it has one. Default: the documents' encoder, or the first one.
    """
    router = read_router(folder)
    if router is None:
        return None
    types = router.input_types
    route = next((types[name] for name in (input_type, "document") if isinstance(name, str) and name in types), None)
    chosen = next(iter(router.routes.values())) if route is None else router.routes[route]
    return chosen[0].folder


def task_names(folder: Path) -> tuple[str, ...]:
    """Return the names that `--task` takes: a checkpoint's routes, or its adapters for tasks; none for other checkpoints."""
    router = read_router(folder)
    return tasks_of(find_json(folder / "config.json")) if router is None else tuple(router.routes)


def chosen_task(folder: Path, input_type: object) -> str | None:
    """Return the route or the task of an artifact's only input type, as `--task` takes it; None for other artifacts."""
    return next((name for name in task_names(folder) if input_type_of(name) == input_type), None)


def explain_routes(folder: Path) -> str:
    """Return the commands that convert each route of a checkpoint alone."""
    router = read_router(folder)
    names = () if router is None else tuple(router.routes)
    commands = (f"`fletcher-convert model export {folder} -o OUT-{name} --task {name}`" for name in names)
    return " and ".join(commands)


def _require_default(router: Router) -> str:
    """Return the route of texts without a task."""
    if router.default is None:
        raise CheckpointError(
            f"{router.file}: default_route is None, and texts of other input types than the routes' need one of "
            f"{', '.join(router.routes)}"
        )
    return router.default


def _shares_encoder(router: Router) -> bool:
    """Return whether all routes have the same encoder, and the same modules up to the pooling."""
    first, *others = ([module for module in modules if module.kind not in IDLE] for modules in router.routes.values())
    end = next((index for index, module in enumerate(first) if module.kind == "Pooling"), None)
    if end is None or first[0].kind != "Transformer":
        return False
    return all(other[: end + 1] == first[: end + 1] for other in others)


def _explain_encoders(router: Router) -> str:
    """Return why the routes are not one artifact, and the commands that convert each of them."""
    return (
        f"{router.file} has the routes {router.describe()}. An artifact of several routes needs a Transformer and a Pooling "
        "that all of them share, before the modules in which they differ; or queries without an encoder: weights by token "
        f"({WEIGHTS}), or vectors by token ({VECTORS}) that are normalized if those of documents are. Convert each route "
        f"alone: {explain_routes(router.folder)}"
    )


def _shared(router: Router) -> frozenset[Path]:
    """Return the folders of the modules that several routes have."""
    folders = [module.folder for modules in router.routes.values() for module in modules]
    return frozenset(folder for folder in folders if folders.count(folder) > 1)


def _write_branch(
    view: Path, router: Router, modules: Sequence[RouteModule], shared: frozenset[Path] | None = None
) -> None:
    """Write the layout of a route into a folder: links to the encoder's files, and the list of its modules.

    Args:
        view: the folder.
        router: the routes.
        modules: modules of the route.
        shared: folders of the modules that other routes have too, where several branches are one artifact. A weight is named
            after the path of its module; so that of any other module has the name of its folder in it.
    """
    view.mkdir(parents=True, exist_ok=True)
    first, *later = modules
    entries: list[dict[str, Any]] = []
    if first.kind in ENCODERS:
        for file in first.folder.iterdir():
            if file.is_file() and file.name != "modules.json":
                (view / file.name).symlink_to(file.resolve())
        entries.append({"idx": 0, "name": "0", "path": "", "type": first.type})
    else:
        later = list(modules)
    settings = router.folder / "config_sentence_transformers.json"
    if settings.is_file():
        (view / settings.name).unlink(missing_ok=True)
        (view / settings.name).symlink_to(settings.resolve())
    for module in later:
        index = len(entries)
        path = (
            f"{index}_{module.kind}" if shared is None or module.folder in shared else f"{index}_{module.folder.name}"
        )
        if module.folder.is_dir():
            (view / path).symlink_to(module.folder.resolve())
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.type})
    (view / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
