"""Estimate of the peak memory of a batch, from the encoder's architecture."""

from __future__ import annotations

from fletcher.runtime.artifact.memory_shape import MemoryShape

from ..architecture import Architecture, Decoder, Window
from ..targets.cpu.window_blocks import NEIGHBORS, SIDE, is_blockwise
from ..targets.shared.positions import biased_attentions

__all__ = ["memory_shape"]

#: Bytes of float32, in which every CPU graph computes; a half precision on a device needs less.
ELEMENT = 4

#: Hidden states of each token that exist at once at the peak of the attention: the residual, the projected query, key and
#: value, and one more. Measured: 4.9 (benchmarks/memory).
ATTENTION_STATES = 5

#: The same for each cell of the rectangle: query, key, value, context, and two transposed values. Measured: 5.9.
RECTANGLE_STATES = 6

#: Rows of the vocabulary's size for each token, and for each cell of the rectangle. A decoder's logits exist packed and in
#: the rectangle, and ONNX Runtime's Where, which masks padding, needs two more.
DECODER_ROWS, DECODER_CELLS = 2, 3

#: Squares of each head for scores by content and distance, besides the scores. A product has two columns for each token, and
#: exists before and after it is cut, beside the scores of the other product. Measured: 5.03.
PLACED_SQUARES = 5

#: Hidden states of each token for each token of a convolution's kernel: the rows around, and their products. Measured: 4.1.
KERNEL_STATES = 4

#: Bytes of two int32 for each pair of positions: the distance, and the value that is computed from it.
DISTANCES = 2 * 4


def memory_shape(architecture: Architecture, *, padded: bool, in_blocks: bool = False) -> MemoryShape | None:
    """Return the peak memory of a graph.

    Args:
        architecture: the encoder.
        padded: whether all nodes compute on the rectangle, padding included; else attention alone does.
        in_blocks: whether the target computes windows in blocks.

    Returns:
        The bytes per token, cell and square; None for a traced encoder, whose layers are not described.
    """
    if not architecture.layers:
        return None
    token = cell = square = 0
    for attention in architecture.attentions:
        width = attention.query_heads.width
        token, cell = max(token, ATTENTION_STATES * width), max(cell, RECTANGLE_STATES * width)
        if (convolution := attention.convolution) is not None:
            size, hidden = convolution.depthwise.shape
            token = max(token, (KERNEL_STATES * size + 2) * hidden)
        squares = 1 if attention.disentangled is None else 1 + PLACED_SQUARES
        if in_blocks and is_blockwise(attention) and isinstance(attention.mask, Window):
            # Scores of a token with the keys of all blocks around it.
            keys = NEIGHBORS * -(-attention.mask.before // SIDE)
            token = max(token, ATTENTION_STATES * width + attention.num_heads * keys)
        else:
            square = max(square, attention.num_heads * squares)
    for short in architecture.short_convolutions:
        size, hidden = short.kernel.shape
        token = max(token, (KERNEL_STATES * size + 4) * hidden)
    for part in architecture.feed_forwards:
        # A feed-forward part holds its input, the up projection (and the gate), and the activation.
        up = part.up.weight.shape[1]
        token = max(token, architecture.hidden_size + (3 if part.gate is not None else 2) * up)
    for experts in architecture.experts:
        # All chosen rows are beside their results; an expert's inner values are those of all tokens at most.
        states = architecture.hidden_size * (2 + 3 * experts.top)
        token = max(token, states + 2 * experts.ups[0].weight.shape[1])
    vocabulary = max(
        (module.table.shape[0] for module in architecture.modules if isinstance(module, Decoder)), default=0
    )
    token, cell = token + DECODER_ROWS * vocabulary, cell + DECODER_CELLS * vocabulary
    if padded:
        token, cell = 0, token + cell
    return MemoryShape(ELEMENT * token, ELEMENT * cell, ELEMENT * square, _bias(architecture))


def _bias(architecture: Architecture) -> int:
    """Return the bytes for each cell of a square that all texts share: distances, and each different bias."""
    different = biased_attentions(architecture)
    if not different:
        return 0
    total = DISTANCES
    for attention in different.values():
        by_head = attention.alibi is not None or attention.relative_bias is not None
        total += ELEMENT * (attention.num_heads if by_head else 1)
    return total
