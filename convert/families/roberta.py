"""RoBERTa, and XLM-RoBERTa (multilingual e5, bge-m3) and CamemBERT, which differ from it by their vocabulary alone.

The only difference from BERT is in the positions: they are counted from the row after the padding token's id, and a padding
token inside a text is not counted.

Source: transformers' modeling_roberta.py, modeling_xlm_roberta.py, modeling_camembert.py.
"""

from __future__ import annotations

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import BERT_NAMES, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_roberta"]


def describe_roberta(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: roberta`, `xlm-roberta` or `camembert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    types = config.integer("type_vocab_size", 2)
    padding_id = config.count("pad_token_id", 1)
    config.finish()
    if padding_id >= min(sizes.vocabulary, sizes.positions - 1):
        raise config.refusal(
            f"pad_token_id is {padding_id}: positions are counted from there, and max_position_embeddings "
            f"({sizes.positions}) or vocab_size ({sizes.vocabulary}) leaves none"
        )

    tensors = TensorReader(checkpoint, prefixes=("roberta.",))
    embedding = read_embedding(tensors, sizes, types=types, padding_id=padding_id)
    layers = tuple(read_layer(tensors, sizes, BERT_NAMES, f"encoder.layer.{index}") for index in range(sizes.layers))
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs.")
    tensors.finish()
    family = str(checkpoint.config["model_type"])
    return Architecture(family, sizes.hidden, embedding, layers, max_positions=sizes.positions - padding_id - 1)
