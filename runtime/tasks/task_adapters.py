"""Tasks in one graph: the number that a text's input type asks for, of an adapter (jina-embeddings-v3) or of a route."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fletcher.model_zoo.card import RAW, ModelCard

from ..encodings import Encodings
from ..options.embed import EmbedOptions

__all__ = ["count_tasks", "with_task"]


def count_tasks(card: ModelCard) -> int:
    """Return how many numbers texts of a model with tasks can have, from 0; `raw` without one of its own has one more."""
    return max(card.tasks.values(), default=-1) + 1 + (RAW not in card.tasks) if card.tasks else 0


def with_task(encodings: Encodings, card: ModelCard, options: EmbedOptions) -> Encodings:
    """Return encodings whose tokens have the number of their task; other models' encodings as they are.

    With adapters, the input type `raw` has no task: the number after the last one, for which the graph adds nothing.

    Raises:
        OptionError: the model has no such input type.
    """
    if not card.tasks:  # unset for nearly all models
        return encodings
    task = card.tasks.get(options.purpose(card), len(card.tasks))
    return replace(encodings, token_types=np.full(encodings.num_tokens, task, np.int32))
