"""Vectors of the artifact of a folder, for the texts of the reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.convert.export.export import export
from fletcher.convert.export.options import ExportFields
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError

from .checkpoints.bases import Base
from .reference import Vectors
from .texts import PAIRS, PROMPTED, TEXTS

__all__ = ["compute_vectors", "export_folder"]

Row = NDArray[np.float32]
Embed = Callable[[Sequence[str], str | None], Sequence[Row]]


def export_folder(folder: Path, base: Base, output: Path) -> None:
    """Convert a folder with the options of its base.

    Raises:
        FletcherError: Fletcher refuses the folder.
    """
    # The reference is the installed version. Without this, an artifact follows the version that a folder names.
    version = metadata.version("transformers").partition(".")[0]
    like: dict[str, Any] = {"tokenizer_like": version} if "tokenizer_like" in ExportFields.__annotations__ else {}
    export(str(folder), output, **base.options, **like)


def compute_vectors(folder: Path, base: Base, artifact: Path) -> Vectors:
    """Load an artifact and compute the vectors that the reference computes.

    Args:
        folder: the checkpoint, for the names of its prompts.
        base: base of the checkpoint, for its head.
        artifact: result of `export_folder`.

    Raises:
        FletcherError: the artifact cannot be loaded, or refuses a text.
    """
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        return _HEADS[base.head](encoder, folder)


def _embed(encoder: Encoder, folder: Path) -> Vectors:
    return _all_prompts(lambda texts, kind: list(encoder.embed(texts, input_type=kind).vectors), encoder, folder)


def _embed_sparse(encoder: Encoder, folder: Path) -> Vectors:
    def embed(texts: Sequence[str], kind: str | None) -> list[Row]:
        sparse = encoder.embed_sparse(texts, input_type=kind)
        rows = np.zeros((len(texts), encoder.dimension), np.float32)
        for index, (start, end) in enumerate(zip(sparse.offsets[:-1], sparse.offsets[1:], strict=True)):
            rows[index, sparse.indices[start:end]] = sparse.values[start:end]
        return list(rows)

    return _all_prompts(embed, encoder, folder)


def _all_prompts(embed: Embed, encoder: Encoder, folder: Path) -> Vectors:
    settings, prompts = _settings(folder), encoder.card.prompts
    named, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    # `encode` without a prompt's name adds the default prompt, as an input type without a separate prompt does.
    last = default if default in prompts else "raw"
    plain = next(kind for kind in ("clustering", "classification", last) if kind == last or kind not in named)
    kinds = {"encode": plain, "query": "query", "document": "document"}
    kinds |= {name: name for name in prompts if name in named and name not in kinds}
    return {name: _each(embed, TEXTS if name == "encode" else PROMPTED, kind) for name, kind in kinds.items()}


def _each(embed: Embed, texts: Sequence[str], kind: str | None) -> list[Row | None]:
    """Return the vectors of texts, or None for a text that the model refuses because it has no token."""
    try:
        return [*embed(texts, kind)]
    except InputError:
        if len(texts) == 1:
            return [None]
    return [row for text in texts for row in _each(embed, [text], kind)]


def _settings(folder: Path) -> Mapping[str, Any]:
    """Return the settings with the prompts of the checkpoint, if it has any."""
    file = folder / "config_sentence_transformers.json"
    settings = json.loads(file.read_bytes()) if file.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _score(encoder: Encoder, folder: Path) -> Vectors:
    return {"score": [encoder.score(query, [document]).scores[0] for query, document in PAIRS]}


def _embed_tokens(encoder: Encoder, folder: Path) -> Vectors:
    def embed(texts: Sequence[str], kind: str | None) -> list[Row]:
        tokens = encoder.embed_tokens(texts, input_type=kind)
        return np.split(tokens.vectors, tokens.offsets[1:-1])

    return {kind: _each(embed, TEXTS, kind) for kind in ("query", "document")}


_HEADS: Mapping[str, Callable[[Encoder, Path], Vectors]] = {
    "embedding": _embed,
    "classification": _score,
    "splade": _embed_sparse,
    "colbert": _embed_tokens,
}
