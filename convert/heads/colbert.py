"""ColBERT: a vector for every token, projected without a bias and scaled to L2 norm 1.

There are three kinds of checkpoints: those of sentence-transformers' `MultiVectorEncoder`, of PyLate up to version 3, and of
Stanford's ColBERT. Lengths, query expansion and skipped tokens are on the card, and the runtime applies them.

Source: sentence-transformers' multi_vector_encoder (Khattab and Zaharia, arXiv 2004.12832).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.sentence_transformers.files import Module as ModuleFiles
from fletcher.runtime.artifact.folder import TOKENIZER
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Dense, Module, Normalize
from ..checkpoint import sentence_transformers
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from ..checkpoint.tokenizer.file import check_mask
from ..checkpoint.weights.files import SINGLE
from .pooled import read_dense

__all__ = ["PROJECTION", "add_token_vectors", "register_markers"]

#: Stanford's name of the projection, which is stored among the encoder's tensors.
PROJECTION = "linear.weight"


def add_token_vectors(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with its projection and normalization added.

    Raises:
        CheckpointError: a module is not authored, the projection does not fit, or the tokenizer lacks the expansion token.
    """
    check_mask(checkpoint)
    modules: list[Module] = []
    width = architecture.hidden_size
    entries = sentence_transformers.read_modules(checkpoint.folder)
    _check_order(checkpoint, [entry.kind for entry in entries])
    if not entries:
        if not (checkpoint.folder / SINGLE).is_file():
            raise CheckpointError(
                f"{checkpoint.folder} has no {SINGLE}, from which alone sentence-transformers reads the projection of "
                "Stanford's ColBERT: write its shards into one file"
            )
        projection = TensorReader(checkpoint, prefixes=()).linear("linear", width, card.dimension, bias=False)
        modules.append(Dense(projection, "identity"))
        width = card.dimension
    for entry in entries:
        if entry.kind == "Dense":
            dense = read_dense(entry, width, place="token_embeddings")
            modules.append(dense)
            width = dense.linear.weight.shape[1]
        elif entry.kind == "Normalize":
            _check_normalize(entry)
    if width != card.dimension:
        raise CheckpointError(
            f"{checkpoint.folder} gives vectors of {width} dimensions, the card says {card.dimension}"
        )
    if card.normalize:
        modules.append(Normalize())
    return dataclasses.replace(
        architecture,
        modules=tuple(modules),
        output="token_vectors",
        unseen_tail=_unseen_tail(checkpoint, card),
    )


def _check_order(checkpoint: Checkpoint, kinds: Sequence[str]) -> None:
    """Refuse a list of modules whose order gives other vectors; the place of masks and dropouts changes none."""
    order = [kind for kind in kinds if kind not in ("MultiVectorMask", "Dropout")]
    inner = [kind for kind in order if kind == "Dense"]
    last = [kind for kind in order if kind == "Normalize"]
    if kinds and (kinds[0] != "Transformer" or order != ["Transformer", *inner, *last]):
        raise CheckpointError(
            f"{checkpoint.folder}: the modules in modules.json are {', '.join(kinds)}; of ColBERT models, Fletcher authors "
            "Transformer, any number of Dense, and Normalize at the end, with MultiVectorMask after the Transformer"
        )


def _check_normalize(module: ModuleFiles) -> None:
    """Refuse a Normalize module that works on other vectors than those of the tokens.

    Source: sentence-transformers' `Normalize`, which works on `sentence_embedding` where its config names nothing.
    """
    config = sentence_transformers.find_config(module)
    source = config.get("module_input_name") or "sentence_embedding"
    for key, value in (
        ("module_input_name", source),
        ("module_output_name", config.get("module_output_name") or source),
    ):
        if value != "token_embeddings":
            raise CheckpointError(
                f"{module.folder / 'config.json'}: {key} is {value!r}; of a ColBERT model, only token_embeddings is authored"
            )


def _unseen_tail(checkpoint: Checkpoint, card: ModelCard) -> int | None:
    expansion = card.late_interaction.expansion if card.late_interaction is not None else None
    if expansion is None or expansion.attended:
        return None
    file = checkpoint.folder / TOKENIZER
    if not file.is_file():
        raise CheckpointError(f"{checkpoint.folder} has no {TOKENIZER}, which a model with query expansion needs")
    try:
        token = Tokenizer.from_file(str(file)).token_to_id(expansion.token)
    except Exception as error:  # tokenizers raises bare Exception for every failure
        raise CheckpointError(f"{file} cannot be read as a tokenizer: {error}") from error
    if token is None:
        raise CheckpointError(f"{file} has no token {expansion.token!r}, with which queries are filled up")
    return int(token)


def register_markers(checkpoint: Checkpoint, card: ModelCard, path: Path) -> None:
    """Register the markers of queries and documents as tokens that the artifact's tokenizer does not split.

    PyLate and Stanford's ColBERT insert the markers' ids; their tokenizers would split the words. Only words that the
    vocabulary has are registered, as `MultiVectorEncoder._register_prefix_tokens` does.

    Args:
        checkpoint: checkpoint, whose modules show its kind.
        card: card, whose prompts are the markers of a checkpoint of Stanford.
        path: tokenizer file, which is written again.
    """
    if any(module.kind == "MultiVectorMask" for module in sentence_transformers.read_modules(checkpoint.folder)):
        return  # sentence-transformers saves its tokenizer with the markers
    tokenizer = Tokenizer.from_file(str(path))
    settings = sentence_transformers.read_files(checkpoint.folder).settings
    # PyLate's prefixes stand before its prompts, which are not markers; Stanford's prompts are the markers alone.
    pylate = settings.model_type == "ColBERT"
    prefixes = (settings.query_prefix, settings.document_prefix) if pylate else tuple(card.prompts.values())
    for prompt in filter(None, prefixes):
        for marker in (prompt, prompt.split(None, 1)[0] if prompt.split() else ""):
            if not marker or tokenizer.token_to_id(marker) is None:
                continue
            if tokenizer.encode(marker, add_special_tokens=False).tokens != [marker]:
                tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True)])
            break
    tokenizer.save(str(path), pretty=False)
