"""ELECTRA: BERT, with a projection after the embedding tables if they are narrower than the hidden size.

Source: transformers' modeling_electra.py (`ElectraModel`).
"""

from __future__ import annotations

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import BERT_NAMES, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_electra"]


def describe_electra(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: electra`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    width = config.integer("embedding_size", 128)
    types = config.integer("type_vocab_size", 2)
    config.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("electra.",))
    projection = None if width == sizes.hidden else "embeddings_project"
    embedding = read_embedding(tensors, sizes, width=width, types=types, projection=projection)
    layers = tuple(read_layer(tensors, sizes, BERT_NAMES, f"encoder.layer.{index}") for index in range(sizes.layers))
    # A buffer of older versions; the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "discriminator_predictions.", "generator_predictions.")
    tensors.ignore("generator_lm_head.", "classifier.", "qa_outputs.", "sequence_summary.")
    tensors.finish()
    return Architecture("electra", sizes.hidden, embedding, layers, max_positions=sizes.positions)
