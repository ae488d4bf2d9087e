"""Checkpoints with a Router whose queries need no encoder: they have weights (SPLADE) or vectors by token.

sentence-transformers saves such a model with each module of a route in a folder of its own, named in `router_config.json`.
`routed_layout` gives the documents' branch the usual layout; `read_query_table` finds the queries' table from there.

Source: base/modules/router.py, sparse_encoder/modules/sparse_static_embedding.py and
sentence_transformer/modules/static_embedding.py of sentence-transformers 6.2.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.sentence_transformers.static_queries import QUERIES
from fletcher.model_zoo.sentence_transformers.unsupported import explain_module
from fletcher.runtime.errors import CheckpointError

from .json_files import find_json, read_json
from .sentence_transformers import read_modules
from .static_layout import truncation_limit
from .weights.files import read_weights
from .weights.stored import StoredTensor

__all__ = ["documents_folder", "read_query_table", "routed_layout"]

#: Link in the temporary folder to the folder of the queries' module.
LINK: Final = ".queries"

#: First module of a SPLADE model's queries, and of an embedder's, by the ends of their types.
WEIGHTS, VECTORS = "SparseStaticEmbedding", "StaticEmbedding"

#: Modules of a SPLADE model's documents.
SPLADE: Final = (("Transformer", "SpladePooling"), ("MLMTransformer", "SpladePooling"))

#: Parts of tokenizer.json that decide the ids of a text without special tokens.
DECIDING: Final = ("model", "normalizer", "pre_tokenizer", "added_tokens")


@contextlib.contextmanager
def routed_layout(folder: Path) -> Iterator[Path]:
    """Give a checkpoint with a Router the files of its documents' branch; give any other folder as it is.

    Raises:
        CheckpointError: the Router has other routes or modules, or its two tokenizers differ.
    """
    modules = read_modules(folder)
    if not modules or modules[0].kind != "Router":
        yield folder
        return
    file = folder / modules[0].path / "router_config.json"
    config = read_json(file)
    routes = _routes(file, config, [module.kind for module in modules])
    place, types = file.parent, config["types"]
    queries, encoder = place / routes.queries, place / routes.documents[0]
    _require_equal_tokenizers(queries, encoder)
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        for part in encoder.iterdir():
            (view / part.name).symlink_to(part.resolve())
        settings = folder / "config_sentence_transformers.json"
        if settings.is_file():
            (view / settings.name).unlink(missing_ok=True)
            (view / settings.name).symlink_to(settings.resolve())
        (view / LINK).symlink_to(queries.resolve())
        entries = [{"idx": 0, "name": "0", "path": "", "type": types[encoder.name]}]
        later = [(place / name, types[name]) for name in routes.documents[1:]]
        later += [(folder / module.path, module.entry["type"]) for module in modules[1:]]
        for index, (module, kind) in enumerate(later, 1):
            path = f"{index}_{str(kind).rpartition('.')[2]}"
            (view / path).symlink_to(module.resolve())
            entries.append({"idx": index, "name": str(index), "path": path, "type": kind})
        (view / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
        parameters = config.get("parameters", {})
        default = parameters.get("default_route") or next(iter(config["structure"]))
        (view / QUERIES).write_text(
            json.dumps({"others": default == "query", **_limit(queries, routes.kind)}), encoding="utf-8"
        )
        try:
            yield view
        except (CardError, CheckpointError) as error:  # a message names the user's folder, not the temporary one
            raise type(error)(str(error).replace(str(view), str(encoder))) from error


def read_query_table(folder: Path, vocabulary: int) -> StoredTensor | None:
    """Return what each token has in a query, of a folder that `routed_layout` gave; None for others.

    Returns:
        Weights, (vocabulary,), or vectors, (vocabulary, dimension).

    Raises:
        CheckpointError: the table is missing, or has another shape.
    """
    if not (folder / LINK).exists():
        return None
    tensors = read_weights(folder / LINK)
    table = next(iter(tensors.values()), None)
    sides = {"weight": 1, "embedding.weight": 2}  # of SparseStaticEmbedding, and of StaticEmbedding
    if table is None or len(tensors) > 1 or len(table.shape) != sides.get(table.name) or table.shape[0] != vocabulary:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        raise CheckpointError(
            f"{(folder / LINK).resolve()} has the tensors {shapes}, where `weight` of shape ({vocabulary},) or "
            f"`embedding.weight` of shape ({vocabulary}, dimension) was expected"
        )
    return table


def documents_folder(folder: Path) -> Path | None:
    """Return the folder of the documents' transformer of a checkpoint with a Router that is converted; None for others."""
    modules = read_modules(folder)
    if not modules or modules[0].kind != "Router":
        return None
    file = folder / modules[0].path / "router_config.json"
    return file.parent / _routes(file, read_json(file), [module.kind for module in modules]).documents[0]


@dataclass(frozen=True, slots=True)
class _Routes:
    """Kind and folder of the queries' first module, and the folders of the documents' modules."""

    kind: str
    queries: str
    documents: tuple[str, ...]


def _routes(file: Path, config: Mapping[str, Any], kinds: list[str]) -> _Routes:
    """Return the folders of a Router that is converted."""
    structure, types, parameters = config.get("structure"), config.get("types"), config.get("parameters", {})
    if not isinstance(structure, dict) or not isinstance(types, dict) or not isinstance(parameters, dict):
        raise CheckpointError(f"{file} has no structure and types of its modules: fetch it again")
    found = {
        route: tuple(str(types.get(name)).rpartition(".")[2] for name in names) for route, names in structure.items()
    }
    if not _fits(found, kinds) or parameters.get("route_mappings"):
        routes = "; ".join(f"{route}: {', '.join(parts)}" for route, parts in found.items())
        raise CheckpointError(
            f"{file} has the routes {routes}, with {', '.join(kinds)} in modules.json. Of models with a Router, Fletcher "
            f"converts those whose queries need no encoder: weights by token ({WEIGHTS}), or vectors by token ({VECTORS}) "
            f"that are normalized if those of documents are. Another Router {explain_module('Router')}"
        )
    if parameters.get("default_route") not in (None, "query", "document") or (
        parameters.get("default_route") is None and parameters.get("allow_empty_key") is False
    ):
        raise CheckpointError(
            f"{file}: default_route is {parameters.get('default_route')!r}; texts of other input types than query and "
            "document need one of the two"
        )
    for types_of in types.values():
        if not str(types_of).startswith("sentence_transformers."):
            raise CheckpointError(
                f"{file}: the module {types_of} is code of another package, which Fletcher does not run"
            )
    documents = tuple(map(str, structure["document"]))
    for name in (structure["query"][0], *documents):
        if Path(name).name != name or not (file.parent / name).is_dir():
            raise CheckpointError(f"{file} names {name!r}, which is not a folder beside it: fetch the checkpoint again")
    return _Routes(found["query"][0], structure["query"][0], documents)


def _fits(routes: Mapping[str, tuple[str, ...]], kinds: list[str]) -> bool:
    """Return whether both routes are those of a model that is converted.

    Args:
        routes: kinds of the modules of each route.
        kinds: kinds of the modules in modules.json, the Router first.
    """
    query, documents = routes.get("query", ()), routes.get("document", ())
    if set(routes) != {"query", "document"} or not query or not documents:
        return False
    if query == (WEIGHTS,):
        return documents in SPLADE and kinds == ["Router"]
    # What follows a query's mean changes nothing but its length; a Dense there would need a second graph.
    after = (*query[1:], *kinds[1:])
    normalized = "Normalize" in after
    is_last = [*documents, *kinds[1:]][-1] == "Normalize"
    return (
        query[0] == VECTORS
        and documents[0] == "Transformer"
        and set(after) <= {"Normalize", "Dropout"}
        and normalized == is_last
    )


def _require_equal_tokenizers(queries: Path, documents: Path) -> None:
    """Refuse two tokenizers that give other ids without special tokens: an artifact has one."""
    first, second = (find_json(place / "tokenizer.json") for place in (queries, documents))
    if not first or any(first.get(key) != second.get(key) for key in DECIDING):
        raise CheckpointError(
            f"{queries} and {documents} have different tokenizers, or no tokenizer.json; Fletcher converts a model whose "
            "queries and documents have the same one"
        )
    config = find_json(queries / "config.json")
    if unknown := sorted(set(config) - {"frozen"}):
        raise CheckpointError(f"{queries / 'config.json'} has keys that Fletcher does not know: {', '.join(unknown)}")


def _limit(queries: Path, kind: str) -> dict[str, int]:
    """Return the longest query in tokens, if there is one.

    It is the limit of SparseStaticEmbedding's tokenizer, or the truncation in the file that StaticEmbedding reads alone.

    Raises:
        CheckpointError: truncation cuts the beginning of a query.
    """
    if kind == WEIGHTS:
        length = find_json(queries / "tokenizer_config.json").get("model_max_length")
        return {"max_tokens": length} if isinstance(length, int) and 0 < length < 1_000_000_000 else {}
    length = truncation_limit(queries)
    return {} if length is None else {"max_tokens": length}
