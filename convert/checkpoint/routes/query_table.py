"""Table of a model whose queries need no encoder: weights (SPLADE) or vectors by token.

`layout.py` gives the documents' branch the usual layout, with a link to the folder of the queries' module;
`read_query_table` finds the table from there.

Source: sparse_encoder/modules/sparse_static_embedding.py and sentence_transformer/modules/static_embedding.py of
sentence-transformers 6.2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fletcher.model_zoo.sentence_transformers.static_queries import QUERIES
from fletcher.runtime.errors import CheckpointError

from ..json_files import find_json
from ..static_layout import truncation_limit
from ..weights.files import read_weights
from ..weights.stored import StoredTensor
from .router import RouteModule, Router

__all__ = ["VECTORS", "WEIGHTS", "add_queries", "has_query_table", "read_query_table"]

#: Link in the temporary folder to the folder of the queries' module.
LINK: Final = ".queries"

#: First module of a SPLADE model's queries, and of an embedder's, by the ends of their types.
WEIGHTS, VECTORS = "SparseStaticEmbedding", "StaticEmbedding"

#: Modules of a SPLADE model's documents.
SPLADE: Final = (("Transformer", "SpladePooling"), ("MLMTransformer", "SpladePooling"))

#: Parts of tokenizer.json that decide the ids of a text without special tokens.
DECIDING: Final = ("model", "normalizer", "pre_tokenizer", "added_tokens")


def has_query_table(router: Router) -> bool:
    """Return whether a Router is that of a model whose queries have a table, and whose documents have an encoder."""
    if set(router.routes) != {"query", "document"}:
        return False
    query, documents = (tuple(module.kind for module in router.routes[name]) for name in ("query", "document"))
    if query == (WEIGHTS,):
        return documents in SPLADE
    # What follows a query's mean changes nothing but its length; a Dense there would need a second graph.
    after = query[1:]
    normalized = "Normalize" in after
    return (
        query[0] == VECTORS
        and documents[0] == "Transformer"
        and set(after) <= {"Normalize", "Dropout"}
        and normalized == (documents[-1] == "Normalize")
    )


def add_queries(view: Path, router: Router) -> None:
    """Add the queries' table and settings to the layout of the documents' branch.

    Raises:
        CheckpointError: the two tokenizers differ, the table's module has unknown keys, or truncation cuts the beginning of a
            query.
    """
    table, encoder = router.routes["query"][0], router.routes["document"][0]
    _require_equal_tokenizers(table.folder, encoder.folder)
    (view / LINK).symlink_to(table.folder.resolve())
    settings = {"others": router.default == "query", **_limit(table)}
    (view / QUERIES).write_text(json.dumps(settings), encoding="utf-8")


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


def _limit(table: RouteModule) -> dict[str, int]:
    """Return the longest query in tokens, if there is one.

    It is the limit of SparseStaticEmbedding's tokenizer, or the truncation in the file that StaticEmbedding reads alone.

    Raises:
        CheckpointError: truncation cuts the beginning of a query.
    """
    if table.kind == WEIGHTS:
        length = find_json(table.folder / "tokenizer_config.json").get("model_max_length")
        return {"max_tokens": length} if isinstance(length, int) and 0 < length < 1_000_000_000 else {}
    length = truncation_limit(table.folder)
    return {} if length is None else {"max_tokens": length}
