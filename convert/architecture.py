"""What an encoder computes, in words that every family shares and every target's emitter reads.

A family (`families/`) turns a checkpoint's configuration and tensors into an `Architecture`; an emitter (`targets/`) turns
that into a graph. Neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from fletcher.model_zoo.card import Output, PoolingMode

from .checkpoint.tensors import Linear, Norm, Weight

__all__ = [
    "Activation",
    "Architecture",
    "Attention",
    "Decoder",
    "Dense",
    "Embedding",
    "FeedForward",
    "Layer",
    "LearnedPositions",
    "Module",
    "Normalize",
    "Pooling",
    "RelativeBias",
    "Rotary",
    "Saturation",
]


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """A table of absolute positions.

    Attributes:
        table: (positions, width); a text's first token has row 0, unless there is a padding id.
        padding_id: RoBERTa's way of counting. The row of this number is for padding, and for a token of this id that stands
            inside a text; such tokens are not counted. The first counted token has the row after it.
    """

    table: Weight
    padding_id: int | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token ids to hidden states.

    Attributes:
        word: (vocabulary, width).
        positions: absolute positions, if the family has them here.
        token_type: the row of token type 0, (width,), if the family has types; texts for embedding are all of type 0.
        norm: after the sum, if the family has one.
        projection: from the table's width to the hidden size, where they differ (ALBERT, ELECTRA).
        token_types: instead of `token_type`, the whole table, (types, width), where pairs of texts come in.
    """

    word: Weight
    positions: LearnedPositions | None
    token_type: Weight | None
    norm: Norm | None
    projection: Linear | None = None
    token_types: Weight | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: pairs of a head's first elements, turned by an angle that grows with the position.

    Attributes:
        name: of its table in the graph; equal for layers that share one.
        frequencies: radians a position, one for each pair, as float32 values; whatever scaling a family has is in them.
        interleaved: the pairs are neighbors (0, 1), (2, 3), …; otherwise element i goes with i + len(frequencies).
        factor: what cosines and sines are multiplied with (YaRN's attention factor).
    """

    name: str
    frequencies: tuple[float, ...]
    interleaved: bool = False
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """A learned number added to each score by the distance of its two tokens, in T5's logarithmic buckets (MPNet).

    Attributes:
        table: (buckets, heads); half of the buckets are for keys before the query, half for those after it.
        max_distance: from here on all distances share the last bucket.
    """

    table: Weight
    max_distance: int = 128


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head self-attention over each text.

    The scores are scale · rotary(query) · rotary(key)ᵀ, plus ALiBi's and the learned bias, inside the window.

    Attributes:
        query: (hidden, heads · head_size).
        key: same.
        value: same.
        output: (heads · head_size, hidden).
        num_heads: heads.
        scale: what the scores are multiplied with.
        rotary: positions that turn queries and keys.
        window: how many tokens to each side of itself a token sees; None is all of them.
        alibi: slope of each head: -slope · |distance| is added to the scores.
        relative_bias: learned bias; one object, shared by the layers that share the table.
        query_norm: over (heads · head_size) of the projected query, if the family has one.
        key_norm: same, of the key.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    num_heads: int
    scale: float
    rotary: Rotary | None = None
    window: int | None = None
    alibi: tuple[float, ...] | None = None
    relative_bias: RelativeBias | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(activation(up(x))), or down(activation(gate(x)) · up(x)) where there is a gate.

    Attributes:
        up: (hidden, intermediate).
        down: (intermediate, hidden).
        activation: transformers' name of it, one of `activations.AUTHORED`.
        gate: (hidden, intermediate), for gated units.
    """

    up: Linear
    down: Linear
    activation: str
    gate: Linear | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer. Post-norm: norm(x + f(x)). Pre-norm: x + f(norm(x)).

    Attributes:
        name: prefix of its nodes' names.
        attention: its attention.
        attention_norm: beside the attention; None is the identity (ModernBERT's first layer).
        feed_forward: its feed-forward part.
        feed_forward_norm: beside it.
        norm_first: pre-norm.
        attention_norm_again: post-norm only: the layer's input is added, and normed, a second time, so that the attention's
            part is norm(x + norm(x + f(x))) (JinaBERT with query norms).
    """

    name: str
    attention: Attention
    attention_norm: Norm | None
    feed_forward: FeedForward
    feed_forward_norm: Norm
    norm_first: bool = False
    attention_norm_again: Norm | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token vectors to one vector a text; several modes stand side by side, in this order."""

    modes: tuple[PoolingMode, ...]


@dataclass(frozen=True, slots=True)
class Dense:
    """sentence-transformers' Dense module.

    Attributes:
        linear: (in, out).
        activation: transformers' name of it.
    """

    linear: Linear
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    """L2 norm 1, as torch.nn.functional.normalize: x / max(|x|, 1e-12)."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Logits of the vocabulary's tokens: x · tableᵀ + bias. The table is often the word embeddings'.

    Attributes:
        table: (vocabulary, width).
        bias: (vocabulary,), if there is one.
    """

    table: Weight
    bias: Weight | None


@dataclass(frozen=True, slots=True)
class Saturation:
    """SPLADE's weights of logits: log(1 + relu(x)), and log(1 + x) of that as often as `times` says."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of each element.

    Attributes:
        name: transformers' name of it.
    """

    name: str


Module = Pooling | Dense | Norm | Normalize | Decoder | Saturation | Activation


@dataclass(frozen=True, slots=True)
class Architecture:
    """An encoder and what follows it.

    Attributes:
        family: `model_type`.
        hidden_size: width of a token vector.
        embedding: what comes first.
        layers: what follows.
        max_positions: longest text that the positions allow, in tokens.
        final_norm: after the last layer, for pre-norm families.
        modules: what follows, in order. Those before a pooling work on each token's vector, those after it on each text's.
        output: what leaves the graph.
        unseen_tail: tokens of this id at a text's end are computed, and no token attends to them (ColBERT's expansion).
    """

    family: str
    hidden_size: int
    embedding: Embedding
    layers: tuple[Layer, ...]
    max_positions: int
    final_norm: Norm | None = None
    modules: tuple[Module, ...] = ()
    output: Output = "vectors"
    unseen_tail: int | None = None
