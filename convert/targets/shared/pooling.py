"""Pooling by weights that the host computed, and rows that are pooled before the end of the last layer.

A model that takes one token of each text computes no other rows behind the last layer's attention. The last attention (or
gated convolution) reads all tokens. What follows works on each row alone: its output product, the sum, the norms, the
feed-forward part, and the modules. So the rows are taken before the output product, and on targets whose attention can have
one query for many keys before the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fletcher.model_zoo.card import PoolingMode

from ...architecture import Architecture, Attention, Block, LayerAverage, Pooling, ShortConvolution
from ...graph.builder import GraphBuilder

__all__ = ["Pool", "PooledRows", "emit_weighted_sum", "keep_rows", "mixes_tokens", "pooled_mode", "take_context"]

#: Adds one vector per text: the mode, values with a row for each token, their width, and the name of the last node.
Pool = Callable[[PoolingMode, str, int, str], str]


@dataclass(frozen=True, slots=True)
class PooledRows:
    """Way to take the pooled rows.

    Attributes:
        mode: the pooling, which takes one token of each text.
        pool: the target's nodes.
        width: width of the hidden states.
    """

    mode: PoolingMode
    pool: Pool
    width: int

    def take(self, value: str, width: int, name: str) -> str:
        """Add the pooled rows, (texts, width), of values with a row for each token; the node's name ends with the mode."""
        return self.pool(self.mode, value, width, f"{name}/{self.mode}")


def take_context(rows: PooledRows | None, attention: Attention, context: str, name: str) -> str:
    """Add the pooled rows of an attention's context; without rows to take, the context stays whole."""
    return context if rows is None else rows.take(context, attention.output.weight.shape[0], f"{name}/context")


def pooled_mode(architecture: Architecture) -> PoolingMode | None:
    """Return the pooling that takes one token of each text; None if anything reads other rows of the last layer."""
    poolings = [module for module in architecture.modules if isinstance(module, Pooling)]
    modes = [mode for pooling in poolings for mode in pooling.modes]
    if (
        len(modes) != 1
        or modes[0] not in ("cls", "lasttoken")
        or not architecture.layers
        or not any(mixes_tokens(block) for block in architecture.layers[-1].blocks)
        or architecture.token_outputs
        or architecture.embedding.adapters is not None  # they have the columns of each token's task
        or any(isinstance(module, LayerAverage) for module in architecture.modules)
    ):
        return None
    return modes[0]


def mixes_tokens(block: Block) -> bool:
    """Return whether a row of a block's result depends on other rows of its input."""
    return isinstance(block.core, Attention | ShortConvolution)


def keep_rows(graph: GraphBuilder) -> Pool:
    """Return a pooling of rows that were taken before."""
    return lambda mode, rows, width, name: graph.node("Identity", [rows], name)


def emit_weighted_sum(graph: GraphBuilder, weights: str, rectangle: str, name: str) -> str:
    """Add the weighted sum over each text's tokens, (texts, hidden).

    Args:
        graph: graph to add to.
        weights: (texts, longest), 0 for padding.
        rectangle: token vectors, (texts, longest, hidden); finite in padding, too.
        name: name of the last node.
    """
    row = graph.node("Unsqueeze", [weights, graph.constant([1])], f"{name}/weights_row")
    summed = graph.node("MatMul", [row, rectangle], f"{name}/sum")  # (texts, 1, hidden)
    return graph.node("Squeeze", [summed, graph.constant([1])], name)
