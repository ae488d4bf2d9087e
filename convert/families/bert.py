"""BERT: learned positions, token types, post-norm layers. MiniLM, bge, e5, gte and arctic are BERTs too.

Source: transformers' modeling_bert.py (`BertModel`).
"""

from __future__ import annotations

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import BERT_NAMES, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_bert"]

#: Keys of a pooler that transformers never had (Google's multilingual checkpoints), and of TinyBERT's training.
UNUSED_KEYS = (
    *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head"),
    *("pooler_type", "cell", "emb_size", "pre_trained", "structure", "training"),
)


def describe_bert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: bert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    types = config.integer("type_vocab_size", 2)
    config.ignore(*UNUSED_KEYS)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("bert.",))
    embedding = read_embedding(tensors, sizes, types=types)
    layers = tuple(read_layer(tensors, sizes, BERT_NAMES, f"encoder.layer.{index}") for index in range(sizes.layers))
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "cls.", "classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("bert", sizes.hidden, embedding, layers, max_positions=sizes.positions)
