"""RoBERTa; XLM-RoBERTa (multilingual e5, bge-m3) and CamemBERT, which differ from it by their vocabulary alone; and the XL.

The only difference from BERT is in the positions: they are counted from the row after the padding token's id, and a padding
token inside a text is not counted. XLM-RoBERTa XL has its norms before each part and after the last layer, and none of the
embeddings.

Source: transformers' modeling_roberta.py, modeling_xlm_roberta.py, modeling_camembert.py, modeling_xlm_roberta_xl.py.
"""

from __future__ import annotations

from dataclasses import replace

from ..architecture import Architecture, Block, Embedding, Layer, LearnedPositions
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import BERT_NAMES, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_roberta", "describe_xlm_roberta_xl"]

#: Names of a layer's tensors in the XL.
_NAMES_OF_XL = replace(BERT_NAMES, attention_norm="attention.self_attn_layer_norm", feed_forward_norm="LayerNorm")


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


def describe_xlm_roberta_xl(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: xlm-roberta-xl`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = replace(read_sizes(config), epsilon=config.number("layer_norm_eps", 1e-5))
    types, padding = config.integer("type_vocab_size", 1), config.count("pad_token_id", 1)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("roberta.",))
    positions = tensors.take("embeddings.position_embeddings.weight", (sizes.positions, sizes.hidden))
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (sizes.vocabulary, sizes.hidden)),
        positions=LearnedPositions(positions, padding),
        token_type=tensors.row("embeddings.token_type_embeddings.weight", (types, sizes.hidden), 0),
        norm=None,
    )
    layers = tuple(
        _with_norms_before(read_layer(tensors, sizes, _NAMES_OF_XL, f"encoder.layer.{index}"))
        for index in range(sizes.layers)
    )
    final_norm = tensors.norm("encoder.LayerNorm", sizes.hidden, sizes.epsilon)
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs.")
    tensors.finish()
    longest = sizes.positions - padding - 1
    return Architecture("xlm-roberta-xl", sizes.hidden, embedding, layers, max_positions=longest, final_norm=final_norm)


def _with_norms_before(layer: Layer) -> Layer:
    """Return a layer whose norms are before its parts instead of after their sums."""
    return replace(layer, blocks=tuple(Block(block.body, norm_before=block.norm_sum) for block in layer.blocks))
