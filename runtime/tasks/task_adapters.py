"""Adapters of tasks in one graph: the number of the task that a text's input type asks for (jina-embeddings-v3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fletcher.model_zoo.card import ModelCard

from ..encodings import Encodings
from ..options.embed import EmbedOptions

__all__ = ["with_task"]


def with_task(encodings: Encodings, card: ModelCard, options: EmbedOptions) -> Encodings:
    """Return encodings whose tokens have the number of their task; other models' encodings as they are.

    The input type `raw` has no task: the number after the last one, for which the graph adds nothing.

    Raises:
        OptionError: the model has no such input type.
    """
    if not card.tasks:  # unset for nearly all models
        return encodings
    task = card.tasks.get(options.purpose(card), len(card.tasks))
    return replace(encodings, token_types=np.full(encodings.num_tokens, task, np.int32))
