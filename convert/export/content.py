"""Digests of what decides a model's vectors, for the identifier of its space; see `Content`.

They are made of the checkpoint's values and of a description of the graph, never of a written file. Names of nodes, layouts
of weights, element types and versions of tools may change from one version of Fletcher to the next, and these digests may
not. A test pins the digests of a known checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fletcher.runtime.artifact.manifest import Content

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.routes.layout import route_folders
from ..checkpoint.routes.query_table import read_query_table
from ..checkpoint.sentence_transformers import read_modules
from ..checkpoint.tensors import Weight
from ..checkpoint.weights.files import read_weights
from ..checkpoint.weights.stored import StoredTensor
from ..heads.token_heads import read_token_head_tensors

__all__ = ["describe_content", "describe_graph", "hash_tensors", "hash_tokenizer"]

#: Types of numbers that are rounded in a description.
FLOAT_TYPES: Final = (float, np.floating)

#: Elements of a tensor that are converted to float32 at a time.
ELEMENTS: Final = 1 << 20

#: Keys of tokenizer.json that change no token id: Fletcher sets truncation and padding itself.
IDLE_TOKENIZER_KEYS: Final = ("version", "truncation", "padding")

#: Keys of config.json that say nothing about the computation of a traced model.
IDLE_CONFIG_KEYS: Final = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")

#: Fields of the description of an architecture that are names of nodes, or sizes that the weights imply.
NAMES: Final = {
    "Rotary": ("name",),
    "Disentangled": ("name",),
    "Layer": ("name",),
    "Architecture": ("family", "hidden_size", "max_positions"),
}


def describe_content(
    checkpoint: Checkpoint, architecture: Architecture, tokenizer: Path, unweighted: Sequence[str] = ()
) -> Content:
    """Return the digests of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        architecture: encoder and modules that its graphs compute.
        tokenizer: the artifact's tokenizer file.
        unweighted: tokens that have no weight in a sparse vector, if the graphs have weights of tokens.
    """
    graph = describe_graph(dataclasses.replace(architecture, token_outputs=()))
    if not architecture.layers:  # a traced model, whose layers only its configuration describes
        config = {key: value for key, value in checkpoint.config.items() if key not in IDLE_CONFIG_KEYS}
        graph = {"traced": config, "modules": graph}
    return Content(
        weights=hash_tensors(_tensors(checkpoint)),
        graph=_hash_json(graph),
        tokenizer=hash_tokenizer(tokenizer),
        token_heads=_hash_token_heads(checkpoint, architecture, unweighted) if architecture.token_outputs else "",
    )


def _hash_token_heads(checkpoint: Checkpoint, architecture: Architecture, unweighted: Sequence[str]) -> str:
    """Return the sha256 of the further outputs: weights, description of their modules, and the tokens without a weight."""
    weights = hash_tensors(iter(read_token_head_tensors(checkpoint).items()))
    return _hash_json([weights, [describe_graph(output) for output in architecture.token_outputs], list(unweighted)])


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of the encoder, and of the modules that `modules.json` has in folders of their own, by name."""
    yield from checkpoint.tensors.items()
    if "vocab_size" in checkpoint.config and (
        (table := read_query_table(checkpoint.folder, checkpoint.config["vocab_size"])) is not None
    ):
        yield f"queries/{table.name}", table
    places = (checkpoint.folder, *route_folders(checkpoint.folder))
    modules = {module.path: module for place in places for module in read_modules(place) or ()}
    for module in modules.values():
        if module.path and module.kind in ("Dense", "LayerNorm", "WeightedLayerPooling"):
            yield from ((f"{module.path}/{name}", tensor) for name, tensor in read_weights(module.folder).items())


def hash_tensors(tensors: Iterator[tuple[str, StoredTensor]]) -> str:
    """Return the sha256 of tensors: their names, shapes, and values in float32, in the order of their names.

    Tensors of whole numbers are counters of positions, which no graph has. The values are read a part at a time.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        if tensor.dtype.kind in "iub":
            continue
        digest.update(json.dumps([name, tensor.shape]).encode())
        for part in tensor.parts(ELEMENTS):
            digest.update(part.astype("<f4").data)
    return digest.hexdigest()


def describe_graph(value: Any) -> Any:
    """Return a description of an architecture, or of a part of it, that JSON can hold.

    Fields with their default are left out, so that a later version can add fields. A weight is its shape, because its values
    are in the digest of the tensors. Numbers that Fletcher computes have few digits, because processors round them
    differently.
    """
    if isinstance(value, Weight):
        return list(value.shape)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        fields = {
            field.name: describe_graph(found)
            for field in dataclasses.fields(value)
            if field.name not in NAMES.get(kind, ())
            and (found := getattr(value, field.name)) is not None
            and found != field.default
        }
        return {"is": kind, **fields}
    if isinstance(value, tuple):
        return [f"{item:.4g}" if isinstance(item, FLOAT_TYPES) else describe_graph(item) for item in value]
    return f"{value:.9g}" if isinstance(value, FLOAT_TYPES) else value


def hash_tokenizer(path: Path) -> str:
    """Return the sha256 of a tokenizer's content: its JSON, without keys that are null or change no token id."""
    content: Mapping[str, Any] = json.loads(path.read_bytes())
    return _hash_json(_without_nulls({key: part for key, part in content.items() if key not in IDLE_TOKENIZER_KEYS}))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _hash_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A tokenizer's vocabulary may have lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
