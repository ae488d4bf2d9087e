"""BERT: learned positions, token types, post-norm layers. MiniLM, bge, e5, gte and arctic are BERTs too.

Source: transformers' modeling_bert.py (`BertModel`).
"""

from __future__ import annotations

import math

from fletcher.runtime.errors import CheckpointError

from ..activations import check_activation
from ..checkpoint import Checkpoint
from ..description import Architecture, Attention, Embedding, FeedForward, Layer, LearnedPositions
from ..weights import TensorReader
from .config import Config

__all__ = ["describe_bert"]


def describe_bert(checkpoint: Checkpoint) -> Architecture:
    """`model_type: bert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    hidden = config.integer("hidden_size")
    intermediate = config.integer("intermediate_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    vocabulary = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings")
    types = config.integer("type_vocab_size", 2)
    epsilon = config.number("layer_norm_eps", 1e-12)
    activation = check_activation(
        config.value("hidden_act", "gelu"), f"{checkpoint.folder / 'config.json'}: hidden_act"
    )
    config.must_be("position_embedding_type", "absolute", None)
    config.finish()
    if hidden % heads:
        raise CheckpointError(
            f"{checkpoint.folder}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        )

    tensors = TensorReader(checkpoint, prefixes=("bert.",))
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        positions=LearnedPositions(tensors.take("embeddings.position_embeddings.weight", (positions, hidden))),
        token_type=tensors.row("embeddings.token_type_embeddings.weight", (types, hidden), 0),
        norm=tensors.norm("embeddings.LayerNorm", hidden, epsilon),
    )
    layers = []
    for index in range(num_layers):
        name = f"encoder.layer.{index}"
        attention = Attention(
            query=tensors.linear(f"{name}.attention.self.query", hidden, hidden),
            key=tensors.linear(f"{name}.attention.self.key", hidden, hidden),
            value=tensors.linear(f"{name}.attention.self.value", hidden, hidden),
            output=tensors.linear(f"{name}.attention.output.dense", hidden, hidden),
            num_heads=heads,
            scale=1 / math.sqrt(hidden // heads),
        )
        feed_forward = FeedForward(
            up=tensors.linear(f"{name}.intermediate.dense", hidden, intermediate),
            down=tensors.linear(f"{name}.output.dense", intermediate, hidden),
            activation=activation,
        )
        attention_norm = tensors.norm(f"{name}.attention.output.LayerNorm", hidden, epsilon)
        layers.append(
            Layer(
                name, attention, attention_norm, feed_forward, tensors.norm(f"{name}.output.LayerNorm", hidden, epsilon)
            )
        )
    # A buffer of older versions; the pooler and the pretraining heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "cls.")
    tensors.finish()
    return Architecture("bert", hidden, embedding, tuple(layers), max_positions=positions)
