"""Qwen2 and Qwen3: Llama's build with biases of query, key and value (Qwen2), or with a norm of each head (Qwen3).

Qwen3-Embedding and Qwen3-Reranker are Qwen3; gte-Qwen2 and mxbai-rerank-v2 are Qwen2. Both are causal unless `is_causal` is
false.

Sources: transformers' modeling_qwen2.py, modeling_qwen3.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...architecture import Architecture, Mask
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import switch
from .layer import (
    FULL,
    PREFIXES,
    SLIDING,
    UNUSED_HEADS,
    Heading,
    Sizes,
    read_attention,
    read_causal,
    read_embedding,
    read_feed_forward,
    read_head_size,
    read_kinds,
    read_kv_heads,
    read_layer,
    read_rms_norm,
    read_sizes,
    window_mask,
    with_head_norms,
)
from .rope import RopeContext, read_rope

__all__ = ["describe_qwen"]

#: Defaults of both classes.
POSITIONS, KV_HEADS, WINDOW, FIRST_WINDOW = 32_768, 32, 4096, 28
#: Default of `head_dim` in Qwen3's class.
HEAD_SIZE = 128


def describe_qwen(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: qwen2` or `model_type: qwen3`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    family = str(checkpoint.config["model_type"])
    normed = family == "qwen3"
    sizes = read_sizes(config, positions=POSITIONS)
    masks = _masks(config, sizes)
    size = config.integer("head_dim", HEAD_SIZE) if normed else read_head_size(config, sizes, divides=False)
    output_bias = normed and switch(config, config.file, "attention_bias", False)
    heading = Heading(
        num_heads=sizes.heads,
        num_kv_heads=read_kv_heads(config, sizes.heads, KV_HEADS),
        head_size=size,
        scale=size**-0.5,
        rotary=read_rope(config, RopeContext(size, sizes.positions)),
        mask="causal",
        input_bias=output_bias or not normed,
        output_bias=output_bias,
    )
    activation = check_activation(config.value("hidden_act", "silu"), config.where("hidden_act"))
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes)
    layers = []
    for index, mask in enumerate(masks):
        name = f"layers.{index}"
        attention = read_attention(tensors, name, sizes.hidden, dataclasses.replace(heading, mask=mask))
        if normed:
            attention = with_head_norms(tensors, name, attention, sizes.epsilon)
        feed_forward = read_feed_forward(tensors, name, sizes, activation)
        layers.append(read_layer(tensors, name, sizes, (attention, feed_forward)))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        family, sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )


def _masks(config: Config, sizes: Sizes) -> Sequence[Mask]:
    """Return the mask of each layer: by default those from `max_window_layers` on have a window, if it is switched on."""
    causal = read_causal(config)
    window = None if config.value("sliding_window", WINDOW) is None else config.integer("sliding_window", WINDOW)
    if not switch(config, config.file, "use_sliding_window", False):
        window = None
    first = config.count("max_window_layers", FIRST_WINDOW)
    default = [SLIDING if window is not None and index >= first else FULL for index in range(sizes.layers)]
    kinds = read_kinds(config, sizes.layers, default)
    if SLIDING in kinds and window is None:
        raise config.refusal(f"layer_types has {SLIDING}, and use_sliding_window or sliding_window switches it off")
    whole: Mask = "causal" if causal else "full"
    if window is None:
        return [whole] * sizes.layers
    local = window_mask(window, causal=causal, positions=sizes.positions)
    return [local if kind == SLIDING else whole for kind in kinds]
