"""ALBERT: BERT with narrow embedding tables, a projection after them, and layers that share their weights.

Source: transformers' modeling_albert.py (`AlbertModel`).
"""

from __future__ import annotations

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import Names, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_albert"]

NAMES = Names(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    output="attention.dense",
    attention_norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    feed_forward_norm="full_layer_layer_norm",
)


def describe_albert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: albert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, activation="gelu_new")
    width = config.integer("embedding_size", 128)
    types = config.integer("type_vocab_size", 2)
    groups = config.integer("num_hidden_groups", 1)
    inner = config.integer("inner_group_num", 1)
    config.ignore("classifier_dropout_prob")
    # Google's own code has options that transformers never had; the published checkpoints do not use them.
    config.must_be("net_structure_type", 0)
    config.must_be("gap_size", 0)
    config.must_be("num_memory_blocks", 0)
    config.must_be("down_scale_factor", 1)
    config.must_be("layers_to_keep", [])
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("albert.",))
    embedding = read_embedding(
        tensors, sizes, width=width, types=types, projection="encoder.embedding_hidden_mapping_in"
    )
    layers = []
    for index in range(sizes.layers):
        group = int(index / (sizes.layers / groups))  # as transformers computes it, rounding included
        for part in range(inner):
            prefix = f"encoder.albert_layer_groups.{group}.albert_layers.{part}"
            layers.append(read_layer(tensors, sizes, NAMES, prefix, name=f"encoder.layer.{index * inner + part}"))
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "predictions.", "sop_classifier.")
    tensors.ignore("classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("albert", sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions)
