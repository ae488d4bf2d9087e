"""What GTE and NomicBERT share: transformers' own names of a post-norm layer with rotary positions and gated units."""

from __future__ import annotations

import math
from typing import Protocol

from ..description import Attention, FeedForward, Layer, Rotary
from ..weights import Linear, TensorReader

__all__ = ["GatedShape", "read_gated_layer", "rotary_attention"]


class GatedShape(Protocol):
    """Sizes and switches of a layer."""

    @property
    def hidden(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def activation(self) -> str: ...
    @property
    def rotary(self) -> Rotary: ...
    @property
    def attention_bias(self) -> bool: ...
    @property
    def up_bias(self) -> bool: ...
    @property
    def down_bias(self) -> bool: ...


def read_gated_layer(tensors: TensorReader, shape: GatedShape, index: int) -> Layer:
    """One layer under the names of transformers' classes.

    Args:
        tensors: the checkpoint's.
        shape: sizes, and which products have a bias.
        index: of the layer.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    hidden, name = shape.hidden, f"layers.{index}"
    query, key, value, output = (
        tensors.linear(f"{name}.self_attn.{part}_proj", hidden, hidden, bias=shape.attention_bias) for part in "qkvo"
    )
    up, gate = (
        tensors.linear(f"{name}.mlp.{part}_proj", hidden, shape.intermediate, bias=shape.up_bias)
        for part in ("up", "gate")
    )
    down = tensors.linear(f"{name}.mlp.down_proj", shape.intermediate, hidden, bias=shape.down_bias)
    return Layer(
        name,
        rotary_attention(shape, query, key, value, output),
        tensors.norm(f"{name}.post_attention_layernorm", hidden, shape.epsilon),
        FeedForward(up, down, shape.activation, gate),
        tensors.norm(f"{name}.post_mlp_layernorm", hidden, shape.epsilon),
    )


def rotary_attention(shape: GatedShape, query: Linear, key: Linear, value: Linear, output: Linear) -> Attention:
    """Attention of the shape's heads and rotary positions."""
    scale = 1 / math.sqrt(shape.hidden // shape.heads)
    return Attention(query, key, value, output, shape.heads, scale, rotary=shape.rotary)
