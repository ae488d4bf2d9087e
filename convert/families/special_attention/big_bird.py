"""BigBird: BERT, for texts that are short enough for full attention.

With `block_sparse` attention, transformers computes texts of up to (5 + 2 · random blocks) · block size tokens, 704 with the
usual settings, with full attention. The vectors of longer texts depend on what the model computed before: once it has had a
shorter text, it stays with full attention. They depend on the longest text of their batch, too, whose last block all
others attend to. So longer texts are refused.

Source: transformers' modeling_big_bird.py (`BigBirdModel.forward`).
"""

from __future__ import annotations

import math

from ...architecture import Architecture, Attention, Block, FeedForward, Layer
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ..post_norm import Sizes, read_embedding, read_sizes
from ..settings.reader import Config
from ..settings.values import switch

__all__ = ["describe_big_bird", "explain_blocks"]


def describe_big_bird(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: big_bird`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, activation="gelu_new")
    types, bias = config.integer("type_vocab_size", 2), switch(config, config.file, "use_bias", True)
    longest = _longest(config, sizes.positions)
    config.must_be("rescale_embeddings", False)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("bert.",))
    embedding = read_embedding(tensors, sizes, types=types)
    layers = tuple(_read_layer(tensors, sizes, f"encoder.layer.{index}", bias=bias) for index in range(sizes.layers))
    # Buffers of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "classifier.")
    tensors.ignore("qa_classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("big_bird", sizes.hidden, embedding, layers, max_positions=longest)


def explain_blocks(checkpoint: Checkpoint) -> str:
    """Return why longer texts than those of full attention are refused, as the rest of a sentence; nothing without blocks."""
    if checkpoint.config.get("attention_type", "block_sparse") != "block_sparse":
        return ""
    return (
        " (attention_type is block_sparse: transformers gives a longer text two vectors, one after the load and another "
        "once it has had a short text)"
    )


def _longest(config: Config, positions: int) -> int:
    """Return the longest text that the reference computes with full attention, whatever else it computes."""
    kind = config.value("attention_type", "block_sparse")
    size, random = config.integer("block_size", 64), config.count("num_random_blocks", 3)
    if kind not in ("block_sparse", "original_full"):
        raise config.refusal(f"attention_type is {kind!r}, and transformers has block_sparse and original_full")
    return positions if kind == "original_full" else min(positions, (5 + 2 * random) * size)


def _read_layer(tensors: TensorReader, sizes: Sizes, name: str, *, bias: bool) -> Layer:
    hidden, head_size = sizes.hidden, sizes.hidden // sizes.heads
    query, key, value = (
        tensors.linear(f"{name}.attention.self.{part}", hidden, hidden, bias=bias) for part in ("query", "key", "value")
    )
    attention = Attention(
        query=query,
        key=key,
        value=value,
        output=tensors.linear(f"{name}.attention.output.dense", hidden, hidden),
        num_heads=sizes.heads,
        num_kv_heads=sizes.heads,
        head_size=head_size,
        scale=1 / math.sqrt(head_size),
    )
    feed_forward = FeedForward(
        up=tensors.linear(f"{name}.intermediate.dense", hidden, sizes.intermediate),
        down=tensors.linear(f"{name}.output.dense", sizes.intermediate, hidden),
        activation=sizes.activation,
    )
    attended, widened = (
        tensors.norm(f"{name}.{part}.LayerNorm", hidden, sizes.epsilon) for part in ("attention.output", "output")
    )
    return Layer(name, (Block(attention, norm_sum=attended), Block(feed_forward, norm_sum=widened)))
