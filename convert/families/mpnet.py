"""MPNet: BERT without token types, with RoBERTa's positions and a learned bias by distance that all layers share.

Source: transformers' modeling_mpnet.py (`MPNetModel`).
"""

from __future__ import annotations

from ..architecture import Architecture, RelativeBias
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from .post_norm import Names, read_embedding, read_layer, read_sizes
from .settings.reader import Config

__all__ = ["describe_mpnet"]

#: `MPNetEmbeddings.padding_idx`; transformers ignores `pad_token_id` here.
PADDING_ID = 1

#: Buckets of `compute_position_bias`; transformers ignores `relative_attention_num_buckets` here.
BUCKETS = 32

NAMES = Names(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    feed_forward_norm="output.LayerNorm",
)


def describe_mpnet(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: mpnet`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    config.must_be("relative_attention_num_buckets", BUCKETS)
    config.finish()
    if sizes.positions < PADDING_ID + 2:
        raise config.refusal(f"max_position_embeddings is {sizes.positions}: positions begin at {PADDING_ID + 1}")

    tensors = TensorReader(checkpoint, prefixes=("mpnet.",))
    embedding = read_embedding(tensors, sizes, types=None, padding_id=PADDING_ID)
    bias = RelativeBias(tensors.take("encoder.relative_attention_bias.weight", (BUCKETS, sizes.heads)))
    layers = tuple(
        read_layer(tensors, sizes, NAMES, f"encoder.layer.{index}", relative_bias=bias) for index in range(sizes.layers)
    )
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("mpnet", sizes.hidden, embedding, layers, max_positions=sizes.positions - PADDING_ID - 1)
