"""Static embeddings: an encoder without layers, whose token vectors are rows of a table.

Source: sentence-transformers' static_embedding.py, with model2vec's tables of fewer rows (`mapping`) and weights of tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture, Embedding
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.static_layout import MAX_TOKENS
from ..checkpoint.tensors import TensorReader, Weight
from .settings.reader import Config

__all__ = ["describe_static_embedding"]


def describe_static_embedding(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint of `static_layout`.

    Raises:
        CheckpointError: a tensor is missing, surplus or wrongly shaped.
    """
    config = Config(checkpoint)
    hidden, rows = config.integer("hidden_size"), config.integer("vocab_size")
    config.finish()
    tensors = TensorReader(checkpoint, prefixes=())
    if tensors.has("embedding.weight"):
        table = tensors.take("embedding.weight", (rows, hidden))
    else:
        table = _model2vec_table(checkpoint, tensors, rows, hidden)
    tensors.finish()
    return Architecture("static_embedding", hidden, Embedding(table, None, None, None), (), max_positions=MAX_TOKENS)


def _model2vec_table(checkpoint: Checkpoint, tensors: TensorReader, rows: int, hidden: int) -> Weight:
    """Return model2vec's table with a row for each token: `embeddings[mapping] · weights`."""
    stored = checkpoint.tensors["embeddings"]
    embeddings = tensors.take("embeddings", (stored.shape[0], hidden))
    mapping = None if not tensors.has("mapping") else checkpoint.tensors["mapping"]
    weights = tensors.take("weights", (rows,)) if tensors.has("weights") else None
    tensors.ignore("mapping")

    def load() -> NDArray[np.float32]:
        table = embeddings.load()
        if mapping is not None:
            table = table[np.asarray(mapping.read()).astype(np.int64)]
        return table if weights is None else table * weights.load()[:, None]

    return Weight("embedding.weight", (rows, hidden), load)
