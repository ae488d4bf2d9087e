"""What GTE and NomicBERT share: post-norm layers with rotary positions and gated units, and transformers' names of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..architecture import Attention, Block, FeedForward, Layer, Rotary
from ..checkpoint.tensors import Linear, TensorReader

__all__ = ["GatedShape", "read_gated_layer", "rotary_layer"]


@dataclass(frozen=True, slots=True)
class GatedShape:
    """Sizes and switches of a layer.

    Attributes:
        hidden: width of a token vector.
        intermediate: of the feed-forward part.
        heads: of the attention.
        epsilon: of the norms.
        activation: of the gate, or of the plain unit.
        rotary: the positions.
        attention_bias: whether the attention's products have a bias.
        up_bias: whether the up projection and the gate have one.
        down_bias: whether the down projection has one.
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
    """A layer of products that were read.

    Args:
        tensors: for the norms.
        shape: the layer's.
        name: of the layer, in the checkpoint and in the graph.
        attention: query, key, value and output.
        feed_forward: up, the gate if there is one, and down.
        norms: names of the norms after the attention and after the feed-forward part.

    Raises:
        CheckpointError: a norm is missing or of another shape.
    """
    up, gate, down = feed_forward
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
    widen = FeedForward(up, down, shape.activation, gate)
    return Layer(name, (Block(attend, norm_sum=first), Block(widen, norm_sum=second)))
