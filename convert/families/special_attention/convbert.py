"""ConvBERT: BERT with convolutions in place of half of its heads, whose kernels the tokens make.

transformers lets the padding of a batch into its convolutions: a text's vector depends on the longest text beside it. Here
it is that of the text alone.

Source: transformers' modeling_convbert.py.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ...architecture import Architecture, Attention, Block, FeedForward, Layer, SpanConvolution
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import Linear, TensorReader, Weight
from ..post_norm import Sizes, read_embedding, read_sizes
from ..settings.reader import Config

__all__ = ["describe_convbert"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a model.

    Attributes:
        sizes: sizes that BERT has, too.
        heads: heads of the attention, and of the convolutions.
        kernel: tokens of a kernel.
        groups: groups of the feed-forward products.
    """

    sizes: Sizes
    heads: int
    kernel: int
    groups: int

    @property
    def head_size(self) -> int:
        """Width of a head; the heads of both kinds make up the hidden size."""
        return self.sizes.hidden // self.heads // 2


def describe_convbert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: convbert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    width, types = config.integer("embedding_size", 768), config.integer("type_vocab_size", 2)
    # With more heads for each one that is left than there are heads, one is left.
    heads = max(sizes.heads // config.integer("head_ratio", 2), 1)
    shape = _Shape(sizes, heads, config.integer("conv_kernel_size", 9), config.integer("num_groups", 1))
    config.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")
    config.finish()
    if shape.kernel % 2 == 0:
        raise config.refusal(f"conv_kernel_size is {shape.kernel}, and transformers fails with even numbers")
    if 2 * heads * shape.head_size != sizes.hidden:
        raise config.refusal(
            f"hidden_size {sizes.hidden} is not a multiple of twice the {heads} heads that head_ratio leaves"
        )
    if sizes.hidden % shape.groups or sizes.intermediate % shape.groups:
        raise config.refusal(f"num_groups is {shape.groups}, which does not divide hidden_size and intermediate_size")

    tensors = TensorReader(checkpoint, prefixes=("convbert.",))
    projection = None if width == sizes.hidden else "embeddings_project"
    embedding = read_embedding(tensors, sizes, width=width, types=types, projection=projection)
    layers = tuple(_read_layer(tensors, shape, f"encoder.layer.{index}") for index in range(sizes.layers))
    # Buffers of older versions; the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "embeddings.token_type_ids", "classifier.", "qa_outputs.")
    tensors.ignore("generator_predictions.", "generator_lm_head.", "sequence_summary.")
    tensors.finish()
    return Architecture("convbert", sizes.hidden, embedding, layers, max_positions=sizes.positions)


def _read_layer(tensors: TensorReader, shape: _Shape, name: str) -> Layer:
    sizes, hidden, width = shape.sizes, shape.sizes.hidden, shape.heads * shape.head_size
    prefix = f"{name}.attention.self"
    query, key, value = (tensors.linear(f"{prefix}.{part}", hidden, width) for part in ("query", "key", "value"))
    attention = Attention(
        query=query,
        key=key,
        value=value,
        output=tensors.linear(f"{name}.attention.output.dense", hidden, hidden),
        num_heads=shape.heads,
        num_kv_heads=shape.heads,
        head_size=shape.head_size,
        scale=1 / math.sqrt(shape.head_size),
        convolution=SpanConvolution(
            depthwise=_read_depthwise(tensors, f"{prefix}.key_conv_attn_layer.depthwise.weight", shape),
            pointwise=_read_pointwise(tensors, f"{prefix}.key_conv_attn_layer", hidden, width),
            kernels=tensors.linear(f"{prefix}.conv_kernel_layer", width, shape.heads * shape.kernel),
            values=tensors.linear(f"{prefix}.conv_out_layer", hidden, width),
            size=shape.kernel,
        ),
    )
    feed_forward = FeedForward(
        up=_read_grouped(tensors, f"{name}.intermediate.dense", (hidden, sizes.intermediate), shape.groups),
        down=_read_grouped(tensors, f"{name}.output.dense", (sizes.intermediate, hidden), shape.groups),
        activation=sizes.activation,
    )
    attended, widened = (
        tensors.norm(f"{name}.{part}.LayerNorm", hidden, sizes.epsilon) for part in ("attention.output", "output")
    )
    return Layer(name, (Block(attention, norm_sum=attended), Block(feed_forward, norm_sum=widened)))


def _read_depthwise(tensors: TensorReader, name: str, shape: _Shape) -> Weight:
    """Return the factors of the tokens around, (kernel, hidden); torch stores (hidden, 1, kernel)."""
    hidden, kernel = shape.sizes.hidden, shape.kernel
    stored = tensors.take(name, (hidden, 1, kernel))
    return Weight(name, (kernel, hidden), lambda: np.ascontiguousarray(stored.load()[:, 0].T))


def _read_pointwise(tensors: TensorReader, name: str, hidden: int, width: int) -> Linear:
    """Return the convolution with a kernel of one token, which is a product; torch stores (out, in, 1) and (out, 1)."""
    stored, bias = (
        tensors.take(f"{name}.pointwise.weight", (width, hidden, 1)),
        tensors.take(f"{name}.bias", (width, 1)),
    )
    return Linear(
        Weight(stored.name, (hidden, width), lambda: np.ascontiguousarray(stored.load()[..., 0].T)),
        Weight(bias.name, (width,), lambda: bias.load()[:, 0]),
    )


def _read_grouped(tensors: TensorReader, name: str, shape: tuple[int, int], groups: int) -> Linear:
    """Return a product of groups, (groups, in / groups, out / groups), as one whose other elements are 0."""
    rows, columns = shape
    if groups == 1:
        return tensors.linear(name, rows, columns)
    stored = tensors.take(f"{name}.weight", (groups, rows // groups, columns // groups))

    def load() -> NDArray[np.float32]:
        whole, height, width = np.zeros(shape, np.float32), rows // groups, columns // groups
        for index, block in enumerate(stored.load()):
            whole[index * height : (index + 1) * height, index * width : (index + 1) * width] = block
        return whole

    return Linear(Weight(stored.name, shape, load), tensors.take(f"{name}.bias", (columns,)))
