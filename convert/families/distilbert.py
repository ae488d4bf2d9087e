"""DistilBERT: BERT without token types, under other names.

Source: transformers' modeling_distilbert.py (`DistilBertModel`).
"""

from __future__ import annotations

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import Keys, Names, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_distilbert"]

KEYS = Keys(
    hidden="dim",
    intermediate="hidden_dim",
    heads="n_heads",
    layers="n_layers",
    activation="activation",
    epsilon=None,
)
NAMES = Names(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    feed_forward_norm="output_layer_norm",
)


def describe_distilbert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: distilbert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, KEYS)
    config.ignore("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_")
    # Sinusoidal positions fill the table once, before training; the checkpoint stores it like a learned one.
    config.must_be("sinusoidal_pos_embds", True, False)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("distilbert.",))
    embedding = read_embedding(tensors, sizes, types=None)
    layers = tuple(read_layer(tensors, sizes, NAMES, f"transformer.layer.{index}") for index in range(sizes.layers))
    # A buffer of older versions; the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.")
    tensors.ignore("pre_classifier.", "classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("distilbert", sizes.hidden, embedding, layers, max_positions=sizes.positions)
