"""Layers of GTE and NomicBERT: post-norm, rotary positions, gated units, and transformers' names of their tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...architecture import Attention, Block, FeedForward, Layer, Rotary
from ...checkpoint.tensors import Linear, Norm, TensorReader

__all__ = ["GatedShape", "read_gated_layer", "rotary_attention", "rotary_layer"]


@dataclass(frozen=True, slots=True)
class GatedShape:
    """Sizes and switches of a layer.

    Attributes:
        hidden: width of a token vector.
        intermediate: width inside the feed-forward part.
        heads: attention heads.
        epsilon: epsilon of the norms.
        activation: activation of the gate, or of a unit without a gate.
        rotary: rotary positions.
        attention_bias: whether the attention's products have a bias.
        up_bias: whether the up projection and the gate have a bias.
        down_bias: whether the down projection has a bias.
    """

    hidden: int
    intermediate: int
    heads: int
    epsilon: float
    activation: str
    rotary: Rotary
    attention_bias: bool
    up_bias: bool
    down_bias: bool


def read_gated_layer(tensors: TensorReader, shape: GatedShape, index: int) -> Layer:
    """Read one layer under the names of transformers' classes.

    Args:
        tensors: tensors of the checkpoint.
        shape: sizes, and which products have a bias.
        index: number of the layer.

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
    norms = ("post_attention_layernorm", "post_mlp_layernorm")
    return rotary_layer(tensors, shape, name, (query, key, value, output), (up, gate, down), norms)


def rotary_layer(
    tensors: TensorReader,
    shape: GatedShape,
    name: str,
    attention: tuple[Linear, Linear, Linear, Linear],
    feed_forward: tuple[Linear, Linear | None, Linear],
    norms: tuple[str, str],
) -> Layer:
    """Return a layer made of products that the caller has read; read its norms.

    Args:
        tensors: tensors of the checkpoint.
        shape: sizes of the layer.
        name: name of the layer, in the checkpoint and in the graph.
        attention: query, key, value and output.
        feed_forward: up, gate or None, and down.
        norms: names of the norms after the attention and after the feed-forward part.

    Raises:
        CheckpointError: a norm is missing or of another shape.
    """
    up, gate, down = feed_forward
    attend, norm = rotary_attention(tensors, shape, name, attention, norms)
    return Layer(name, (attend, Block(FeedForward(up, down, shape.activation, gate), norm_sum=norm)))


def rotary_attention(
    tensors: TensorReader,
    shape: GatedShape,
    name: str,
    attention: tuple[Linear, Linear, Linear, Linear],
    norms: tuple[str, str],
) -> tuple[Block, Norm]:
    """Return the attention of a layer with its norm, and the norm after the feed-forward part; see `rotary_layer`."""
    query, key, value, output = attention
    size = shape.hidden // shape.heads
    attend = Attention(
        query=query,
        key=key,
        value=value,
        output=output,
        num_heads=shape.heads,
        num_kv_heads=shape.heads,
        head_size=size,
        scale=1 / math.sqrt(size),
        rotary=shape.rotary,
    )
    first, second = (tensors.norm(f"{name}.{norm}", shape.hidden, shape.epsilon) for norm in norms)
    return Block(attend, norm_sum=first), second
