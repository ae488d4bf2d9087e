"""Heads: modules after the encoder, one file for each kind.

The kind is the card's `output`; each file turns the checkpoint's tensors of its head into modules of the `Architecture`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from fletcher.model_zoo.card import LogitScore, ModelCard, Output

from ..architecture import Activation, Architecture, Pooling
from ..checkpoint.checkpoint import Checkpoint
from ..families import describe
from .classification import add_classification
from .colbert import PROJECTION, add_token_vectors, register_markers
from .logit_score import add_logit_score
from .masked_lm import add_splade, read_saturation
from .routes import read_routes
from .token_heads import add_token_outputs

__all__ = ["describe_model", "finish_tokenizer", "read_head_modules"]

#: Positions of the smallest rotary table that is cut to the longest text: with 262,144 positions and heads of 512 elements, a
#: table takes 540 MB. Smaller ones stay as they are, and so do the bytes of the graphs of most models.
POSITIONS = 8192

AddHead = Callable[[Checkpoint, ModelCard, Architecture], Architecture]


def describe_model(checkpoint: Checkpoint, card: ModelCard) -> Architecture:
    """Return the architecture of the encoder with its head.

    Raises:
        CheckpointError: the family, the head, or the head on that family is not authored, or the checkpoint does not fit.
    """
    architecture = describe(_without_projection(checkpoint, card))
    longest = min(architecture.max_positions, max(card.max_tokens, POSITIONS))
    return _HEADS[card.output](checkpoint, card, dataclasses.replace(architecture, max_positions=longest))


def read_head_modules(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with the modules alone that follow a traced model, which computes logits or token vectors.

    Raises:
        CheckpointError: a module is not authored.
    """
    if card.output == "scores":
        return dataclasses.replace(architecture, modules=(Activation(card.activation or "identity"),))
    if card.output == "sparse":
        return dataclasses.replace(architecture, modules=(Pooling(("max",)), read_saturation(checkpoint)))
    return _HEADS[card.output](checkpoint, card, architecture)


def finish_tokenizer(checkpoint: Checkpoint, card: ModelCard, path: Path) -> None:
    """Apply the changes of a head to the artifact's tokenizer file."""
    if card.output == "token_vectors":
        register_markers(checkpoint, card, path)
    if isinstance(card.logit_score, LogitScore) and card.logit_score.template is not None:
        _remove_ends(path)


def _remove_ends(path: Path) -> None:
    """Take the special tokens around a text out of a tokenizer file: a chat template holds all that there are."""
    description = json.loads(path.read_text(encoding="utf-8"))
    description["post_processor"] = None
    path.write_text(json.dumps(description, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _add_modules(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    modules = read_routes(checkpoint, card, architecture.hidden_size)
    return add_token_outputs(checkpoint, card, dataclasses.replace(architecture, modules=modules))


def _without_projection(checkpoint: Checkpoint, card: ModelCard) -> Checkpoint:
    """Return the checkpoint without ColBERT's projection, which Stanford's files have among the encoder's tensors."""
    if card.output != "token_vectors":
        return checkpoint
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != PROJECTION}
    return dataclasses.replace(checkpoint, tensors=tensors)


def _add_scores(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    if isinstance(card.logit_score, LogitScore):
        return add_logit_score(checkpoint, card, card.logit_score, architecture)
    return add_classification(checkpoint, card, architecture)


_HEADS: Mapping[Output, AddHead] = MappingProxyType(
    {
        "vectors": _add_modules,
        "scores": _add_scores,
        "sparse": add_splade,
        "token_vectors": add_token_vectors,
    }
)
