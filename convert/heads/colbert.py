"""ColBERT: a vector for every token, projected without a bias and scaled to L2 norm 1.

There are three kinds of checkpoints: those of sentence-transformers' `MultiVectorEncoder`, of PyLate up to version 3, and of
Stanford's ColBERT. Lengths, query expansion and skipped tokens are on the card, and the runtime applies them.

Source: sentence-transformers' multi_vector_encoder (Khattab and Zaharia, arXiv 2004.12832).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.folder import TOKENIZER
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Dense, Module, Normalize
from ..checkpoint import sentence_transformers
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .pooled import read_dense

__all__ = ["PROJECTION", "add_token_vectors", "register_markers"]

#: Stanford's name of the projection, which is stored among the encoder's tensors.
PROJECTION = "linear.weight"


def add_token_vectors(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with its projection and normalization added.

    Raises:
        CheckpointError: a module is not authored, the projection does not fit, or the tokenizer lacks the expansion token.
    """
    modules: list[Module] = []
    width = architecture.hidden_size
    entries = sentence_transformers.read_modules(checkpoint.folder)
    if not entries:
        projection = TensorReader(checkpoint, prefixes=()).linear("linear", width, card.dimension, bias=False)
        modules.append(Dense(projection, "identity"))
        width = card.dimension
    for entry in entries:
        if entry.kind == "Dense":
            dense = read_dense(entry, width, place="token_embeddings")
            modules.append(dense)
            width = dense.linear.weight.shape[1]
        elif entry.kind not in ("Transformer", "MultiVectorMask", "Normalize", "Dropout"):
            raise CheckpointError(
                f"{checkpoint.folder}: modules.json has the module {entry.kind}; of ColBERT models, Fletcher authors "
                "Transformer, Dense, MultiVectorMask and Normalize"
            )
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
        card: card, whose prompts begin with the markers.
        path: tokenizer file, which is written again.
    """
    if any(module.kind == "MultiVectorMask" for module in sentence_transformers.read_modules(checkpoint.folder)):
        return  # sentence-transformers saves its tokenizer with the markers
    tokenizer = Tokenizer.from_file(str(path))
    for prompt in card.prompts.values():
        for marker in (prompt, prompt.split(None, 1)[0] if prompt.split() else ""):
            if not marker or tokenizer.token_to_id(marker) is None:
                continue
            if tokenizer.encode(marker, add_special_tokens=False).tokens != [marker]:
                tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True)])
            break
    tokenizer.save(str(path), pretty=False)
