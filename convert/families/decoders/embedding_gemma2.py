"""EmbeddingGemma 2, its text model: sandwich norms, wider heads in global layers, and a gate of each layer by the embeddings.

A global layer has wider heads, and fewer of keys and values, which `per_layer_config` of the configuration states by layer.
The third block of each layer gates its input by a projection of the embeddings. The last step is a product to the vectors'
width.

Source: transformers' modeling_embedding_gemma2.py (`EmbeddingGemma2TextModel`) and its configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...architecture import Architecture, Attention, Block, EmbeddingGate, Layer, Mask
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import Norm, TensorReader, constant
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import switch
from .gemma import read_sandwich
from .layer import (
    FULL,
    SLIDING,
    Heading,
    Sizes,
    read_attention,
    read_embedding,
    read_feed_forward,
    read_kinds,
    read_rms_norm,
    read_sizes,
    window_mask,
    with_head_norms,
)
from .rope import RopeContext, read_layer_ropes

__all__ = ["describe_embedding_gemma2"]

#: Defaults of the class.
POSITIONS, WINDOW, PATTERN, SIGNAL, DIMENSION = 262_144, 512, 6, 512, 768
HEAD_SIZE, KV_HEADS, GLOBAL_HEAD_SIZE, GLOBAL_KV_HEADS = 256, 2, 512, 1
THETAS: Mapping[str, tuple[str, float]] = {FULL: ("", 1e6), SLIDING: ("", 1e4)}


def describe_embedding_gemma2(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: embedding_gemma2_text`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=POSITIONS)
    width = config.integer("hidden_size_per_layer_input", SIGNAL)
    dimension = config.integer("embedding_dim", DIMENSION)
    headings = _headings(config, sizes)
    activation = check_activation(
        config.value("hidden_activation", "gelu_pytorch_tanh"), config.where("hidden_activation")
    )
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("model.", "language_model."))
    embedding = read_embedding(tensors, sizes, scaled=True)
    signals = tensors.linears(
        "ple.per_layer_model_projection",
        sizes.hidden,
        {f"layer_{index}": width for index in range(sizes.layers)},
        bias=False,
    )
    signal_norm = read_rms_norm(tensors, "ple.per_layer_projection_norm", width, sizes.epsilon)
    layers = []
    for index, (heading, signal) in enumerate(zip(headings, signals, strict=True)):
        name = f"layers.{index}"
        attention = _attention(tensors, name, sizes, heading)
        bodies = (attention, read_feed_forward(tensors, name, sizes, activation))
        gate = EmbeddingGate(
            gate=tensors.linear(f"{name}.ple_block.per_layer_input_gate", sizes.hidden, width, bias=False),
            signal=signal,
            scale=sizes.hidden**-0.5,
            norm=signal_norm,
            down=tensors.linear(f"{name}.ple_block.per_layer_projection", width, sizes.hidden, bias=False),
            activation=activation,
        )
        after = read_rms_norm(tensors, f"{name}.ple_block.post_per_layer_input_norm", sizes.hidden, sizes.epsilon)
        blocks = (*read_sandwich(tensors, name, sizes, bodies, plus_one=False), Block(gate, norm_after=after))
        layers.append(Layer(name, blocks, scale=tensors.take(f"{name}.layer_scalar", (1,))))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon)
    projection = tensors.linear("embedding_projection", sizes.hidden, dimension, bias=False)
    tensors.finish()
    return Architecture(
        "embedding_gemma2_text",
        dimension,
        embedding,
        tuple(layers),
        max_positions=sizes.positions,
        final_norm=final_norm,
        projection=projection,
    )


def _attention(tensors: TensorReader, name: str, sizes: Sizes, heading: Heading) -> Attention:
    """Return the attention of a layer, with norms of each head of query, key and value; the value's has no weight."""
    attention = read_attention(tensors, name, sizes.hidden, heading)
    size = heading.head_size
    ones = constant(f"ones.{size}", np.ones(size))
    value_norm = Norm(ones, None, sizes.epsilon, "rms_norm")
    return dataclasses.replace(with_head_norms(tensors, name, attention, sizes.epsilon), value_norm=value_norm)


def _headings(config: Config, sizes: Sizes) -> list[Heading]:
    """Return the attention of each layer, without its weights."""
    pattern = config.integer("sliding_window_pattern", PATTERN)
    default = [FULL if (index + 1) % pattern == 0 else SLIDING for index in range(sizes.layers)]
    kinds = list(read_kinds(config, sizes.layers, default))
    if kinds[-1] != FULL:
        raise config.refusal(f"the last layer must be of {FULL}: transformers would change {kinds[-1]} to it")
    heads = _head_sizes(config, kinds)
    for kind in (FULL, SLIDING):
        if len({pair for pair, of in zip(heads, kinds, strict=True) if of == kind}) > 1:
            raise config.refusal(
                f"per_layer_config has different heads for layers of {kind}, which share their positions"
            )
    contexts = {kind: RopeContext(size, sizes.positions) for (size, _), kind in zip(heads, kinds, strict=True)}
    rotaries = read_layer_ropes(config, {FULL: contexts[FULL], SLIDING: contexts.get(SLIDING, contexts[FULL])}, THETAS)
    window = config.integer("sliding_window", WINDOW)
    masks: Mapping[str, Mask] = {
        FULL: "full",
        SLIDING: window_mask(window, causal=False, positions=sizes.positions),
    }
    bias = switch(config, config.file, "attention_bias", False)
    return [
        Heading(
            num_heads=sizes.heads,
            num_kv_heads=kv_heads,
            head_size=size,
            scale=1.0,
            rotary=rotaries[kind],
            mask=masks[kind],
            input_bias=bias,
            output_bias=bias,
        )
        for kind, (size, kv_heads) in zip(kinds, heads, strict=True)
    ]


def _head_sizes(config: Config, kinds: list[str]) -> list[tuple[int, int]]:
    """Return width of a head and heads of keys of each layer: by `per_layer_config`, else by the kind of the layer."""
    own = config.integer("head_dim", HEAD_SIZE), config.integer("num_key_value_heads", KV_HEADS)
    wide = (
        config.integer("global_head_dim", GLOBAL_HEAD_SIZE),
        config.integer("num_global_key_value_heads", GLOBAL_KV_HEADS),
    )
    changes: Any = config.value("per_layer_config")
    heads = [own] * len(kinds)
    if changes is None:
        heads = [wide if kind == FULL else own for kind in kinds]
    elif not isinstance(changes, Mapping):
        raise config.refusal(f"per_layer_config is {changes!r}, where a JSON object was expected")
    else:
        for layer, values in changes.items():
            heads[_layer(config, layer, len(kinds))] = _changed(config, layer, values, own)
    for size, kv_heads in heads:
        if config.integer("num_attention_heads") % kv_heads:
            raise config.refusal(f"{kv_heads} heads of keys do not divide those of the query, of {size} elements")
    return heads


def _layer(config: Config, layer: object, count: int) -> int:
    text = str(layer)
    if not text.isascii() or not text.isdigit() or int(text) >= count:
        raise config.refusal(f"per_layer_config has the layer {layer!r}, and the model has the layers 0 to {count - 1}")
    return int(text)


def _changed(config: Config, layer: str, values: object, own: tuple[int, int]) -> tuple[int, int]:
    """Return width of a head and heads of keys of a layer with changes."""
    if not isinstance(values, Mapping) or not set(values) <= {"head_dim", "num_key_value_heads"}:
        raise config.refusal(
            f"per_layer_config of layer {layer} is {values!r}; Fletcher authors head_dim and num_key_value_heads"
        )
    sizes = (values.get("head_dim", own[0]), values.get("num_key_value_heads", own[1]))
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise config.refusal(f"per_layer_config of layer {layer} is {values!r}, where positive integers were expected")
    return sizes
