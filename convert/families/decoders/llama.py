"""Llama, Mistral and EuroBERT: one build with other defaults, masks and biases. e5-mistral is a Mistral.

Llama and Mistral are causal unless `is_causal` is false; EuroBERT attends in both directions.

Sources: transformers' modeling_llama.py, modeling_mistral.py, modeling_eurobert.py.
"""

from __future__ import annotations

from ...architecture import Architecture, Mask
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import switch
from .layer import (
    PREFIXES,
    UNUSED_HEADS,
    Heading,
    Sizes,
    read_attention,
    read_causal,
    read_embedding,
    read_feed_forward,
    read_head_size,
    read_kv_heads,
    read_layer,
    read_rms_norm,
    read_sizes,
    window_mask,
)
from .rope import RopeContext, read_rope

__all__ = ["describe_eurobert", "describe_llama", "describe_mistral"]


def describe_llama(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: llama`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=2048)
    mask: Mask = "causal" if read_causal(config) else "full"
    return _describe(checkpoint, config, sizes, mask, kv_heads=None)


def describe_eurobert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: eurobert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=8192, epsilon=1e-5)
    config.must_be("is_causal", False)
    config.ignore("classifier_pooling")  # of the classifier
    return _describe(checkpoint, config, sizes, "full", kv_heads=None)


def describe_mistral(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: mistral`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=4096 * 32)
    causal = read_causal(config)
    mask: Mask = "causal" if causal else "full"
    if config.value("sliding_window", 4096) is not None:
        mask = window_mask(config.integer("sliding_window", 4096), causal=causal, positions=sizes.positions)
    return _describe(checkpoint, config, sizes, mask, kv_heads=8)


def _describe(
    checkpoint: Checkpoint, config: Config, sizes: Sizes, mask: Mask, *, kv_heads: int | None
) -> Architecture:
    """Read the rest of the configuration, and the tensors.

    Args:
        checkpoint: the checkpoint.
        config: its configuration.
        sizes: sizes of the model.
        mask: mask of every layer.
        kv_heads: default of `num_key_value_heads`.
    """
    family = str(checkpoint.config["model_type"])
    biased = family != "mistral"  # Mistral's class has no switches for biases
    attention_bias, mlp_bias = (
        biased and switch(config, config.file, key, False) for key in ("attention_bias", "mlp_bias")
    )
    size = read_head_size(config, sizes, divides=biased)
    heading = Heading(
        num_heads=sizes.heads,
        num_kv_heads=read_kv_heads(config, sizes.heads, kv_heads),
        head_size=size,
        scale=size**-0.5,
        rotary=read_rope(config, RopeContext(size, sizes.positions)),
        mask=mask,
        input_bias=attention_bias,
        output_bias=attention_bias,
    )
    activation = check_activation(config.value("hidden_act", "silu"), config.where("hidden_act"))
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes)
    layers = []
    for name in (f"layers.{index}" for index in range(sizes.layers)):
        attention = read_attention(tensors, name, sizes.hidden, heading)
        feed_forward = read_feed_forward(tensors, name, sizes, activation, bias=mlp_bias)
        layers.append(read_layer(tensors, name, sizes, (attention, feed_forward)))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        family, sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )
