"""What a batch needs at its peak, from what an encoder computes."""

from __future__ import annotations

from fletcher.runtime.memory import MemoryShape

from .description import Architecture

__all__ = ["memory_shape"]

#: Float32, in which every CPU graph computes; a half precision on a device needs less than is said here.
ELEMENT = 4

#: Hidden states that live at once for each token, at the largest moment of the attention's part: the residual, the projected
#: query, key and value, and one of them more. Measured: 4.9 (benchmarks/memory).
ATTENTION_STATES = 5

#: The same for each place of the rectangle: query, key, value, context, and two transposed. Measured: 5.9.
RECTANGLE_STATES = 6


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
    for layer in architecture.layers:
        attention = layer.attention
        width = attention.output.weight.shape[0]
        up = layer.feed_forward.up.weight.shape[1]
        # The feed-forward part holds its input, what it widens to, and the activation of that.
        widened = architecture.hidden_size + (3 if layer.feed_forward.gate is not None else 2) * up
        token = max(token, ATTENTION_STATES * width, widened)
        cell = max(cell, RECTANGLE_STATES * width)
        # The scores; a bias or a window is a second square, and its sum with the scores may be a third.
        biased = attention.alibi is not None or attention.relative_bias is not None or attention.window is not None
        square = max(square, attention.num_heads * (3 if biased else 1))
    head = max((weight.table.shape[0] for weight in architecture.modules if hasattr(weight, "table")), default=0)
    # A decoder's logits stand packed and in the rectangle, and as many again are made of them.
    token, cell = token + 2 * head, cell + 2 * head
    if padded:
        token, cell = 0, token + cell
    return MemoryShape(ELEMENT * token, ELEMENT * cell, ELEMENT * square)
