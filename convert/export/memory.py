"""What a batch needs at its peak, from what an encoder computes."""

from __future__ import annotations

from fletcher.runtime.artifact.memory_shape import MemoryShape

from ..architecture import Architecture, Decoder
from ..targets.shared.positions import biased_attentions

__all__ = ["memory_shape"]

#: Float32, in which every CPU graph computes; a half precision on a device needs less than is said here.
ELEMENT = 4

#: Hidden states that live at once for each token, at the largest moment of the attention's part: the residual, the projected
#: query, key and value, and one of them more. Measured: 4.9 (benchmarks/memory).
ATTENTION_STATES = 5

#: The same for each place of the rectangle: query, key, value, context, and two transposed. Measured: 5.9.
RECTANGLE_STATES = 6

#: Rows of the vocabulary's size for each token, and for each place of the rectangle. A decoder's logits stand packed and in
#: the rectangle, and ONNX Runtime's Where, which masks padding, makes two more of that.
DECODER_ROWS, DECODER_CELLS = 2, 3

#: Bytes of two int32 for each pair of positions: its distance, and what is made of it while it is still there.
DISTANCES = 2 * 4


def memory_shape(architecture: Architecture, *, padded: bool) -> MemoryShape | None:
    """The bytes of a graph's largest moment.

    Args:
        architecture: what it computes.
        padded: whether everything is computed on the rectangle, padding too, and not the attention alone.

    Returns:
        None for a traced encoder, whose layers are not described.
    """
    if not architecture.layers:
        return None
    token = cell = square = 0
    for attention in architecture.attentions:
        width = attention.query_heads.width
        token, cell = max(token, ATTENTION_STATES * width), max(cell, RECTANGLE_STATES * width)
        square = max(square, attention.num_heads)
    for part in architecture.feed_forwards:
        # A feed-forward part holds its input, the up projection (and the gate), and the activation.
        up = part.up.weight.shape[1]
        token = max(token, architecture.hidden_size + (3 if part.gate is not None else 2) * up)
    vocabulary = max(
        (module.table.shape[0] for module in architecture.modules if isinstance(module, Decoder)), default=0
    )
    token, cell = token + DECODER_ROWS * vocabulary, cell + DECODER_CELLS * vocabulary
    if padded:
        token, cell = 0, token + cell
    return MemoryShape(ELEMENT * token, ELEMENT * cell, ELEMENT * square, _bias(architecture))


def _bias(architecture: Architecture) -> int:
    """Bytes for each place of a square that all texts share: distances, and each different bias, which lives to the end."""
    different = biased_attentions(architecture)
    if not different:
        return 0
    total = DISTANCES
    for attention in different.values():
        by_head = attention.alibi is not None or attention.relative_bias is not None
        total += ELEMENT * (attention.num_heads if by_head else 1)
    return total
