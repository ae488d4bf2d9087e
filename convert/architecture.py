"""Description of what an encoder computes, in terms that all families and all targets share.

A family (`families/`) turns a checkpoint's configuration and tensors into an `Architecture`; an emitter (`targets/`) turns
the `Architecture` into a graph. Neither imports the other.

A layer is a sequence of residual blocks. A block adds the result of its body (attention or feed-forward part) to its input,
and can have a norm at three places:

    norm_sum(x + norm_after(body(norm_before(x))))

Pre-norm families have `norm_before` alone, post-norm families `norm_sum` alone, and sandwich norms are `norm_before` with
`norm_after`. The body of a block can be another block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fletcher.model_zoo.card import Output, PoolingMode

from .checkpoint.tensors import Adapter, Linear, Norm, Weight

__all__ = [
    "Activation",
    "Architecture",
    "Attention",
    "Block",
    "Body",
    "Decoder",
    "Dense",
    "Disentangled",
    "Embedding",
    "EmbeddingGate",
    "Experts",
    "FeedForward",
    "GlobalFirst",
    "Heads",
    "Layer",
    "LayerAverage",
    "LearnedPositions",
    "Mask",
    "Module",
    "Normalize",
    "Pooling",
    "RelativeBias",
    "Rotary",
    "Routes",
    "Saturation",
    "SpanConvolution",
    "TokenOutput",
    "Truncate",
    "Window",
]


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """Table of absolute positions.

    Attributes:
        table: (positions, width). Without a padding id, a text's first token has row 0.
        padding_id: id of the padding token, for RoBERTa's way of counting: the row of this number belongs to padding and to
            each token of this id inside a text, such tokens are not counted, and the first counted token has the row after
            it.
    """

    table: Weight
    padding_id: int | None = None


@dataclass(frozen=True, slots=True)
class TaskAdapters:
    """Adapters of several tasks in one graph, of which each text chooses one (jina-embeddings-v3).

    Attributes:
        tasks: number of tasks; a text of the number `tasks` has none.
        rank: columns of each task in every adapter.
        word: adapter of the word table.
        token_type: adapter of the row of token type 0, whose `down` is (1, tasks · rank).
    """

    tasks: int
    rank: int
    word: Adapter
    token_type: Adapter


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token ids to hidden states.

    Attributes:
        word: (vocabulary, width).
        positions: absolute positions, if the family adds them to the embeddings.
        token_type: row of token type 0, (width,), if the family has types and all tokens are of type 0.
        norm: norm of the sum, if the family has one.
        projection: product from the tables' width to the hidden size, if the two differ (ALBERT, ELECTRA).
        token_types: whole table, (types, width), instead of `token_type`, for models that take pairs of texts.
        scale: factor of the word table's rows (Gemma), if the family has one.
        adapters: adapters of the tables, if a text chooses its task.
    """

    word: Weight
    positions: LearnedPositions | None
    token_type: Weight | None
    norm: Norm | None
    projection: Linear | None = None
    token_types: Weight | None = None
    scale: float | None = None
    adapters: TaskAdapters | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: pairs of a head's first elements, rotated by an angle that grows with the position.

    Attributes:
        name: name of the tables in the graph; layers with the same name share them.
        frequencies: radians per position, one for each pair, as float32 values, with the family's scaling applied.
        interleaved: True for pairs of neighbors (0, 1), (2, 3), …; False for pairs of i and i + len(frequencies).
        factor: factor of cosines and sines (YaRN's attention factor).
    """

    name: str
    frequencies: tuple[float, ...]
    interleaved: bool = False
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """Learned number added to each score by the distance of its two tokens, in T5's logarithmic buckets (MPNet).

    Attributes:
        table: (buckets, heads); the first half of the buckets is for keys before the query, the second for those after it.
        max_distance: all distances from here on share the last bucket.
    """

    table: Weight
    max_distance: int = 128


@dataclass(frozen=True, slots=True)
class Disentangled:
    """Numbers added to each score by content and distance (DeBERTa): query_i · keys[r] + key_j · queries[r].

    The row r belongs to the distance i - j of query and key. The tables are multiplied by the scale of the scores.

    Attributes:
        name: name of the rows in the graph; layers with the same name share them.
        rows: row of each distance from 1 - positions to positions - 1.
        keys: (heads, rows, head_size), if queries meet positions.
        queries: (heads, rows, head_size), if keys meet positions.
    """

    name: str
    rows: tuple[int, ...]
    keys: Weight | None
    queries: Weight | None


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a query, or of a key and a value.

    Attributes:
        count: number of heads.
        size: width of a head.
    """

    count: int
    size: int

    @property
    def width(self) -> int:
        """Width of all heads side by side."""
        return self.count * self.size


@dataclass(frozen=True, slots=True)
class Window:
    """Mask of local attention.

    Attributes:
        before: tokens before itself that a token attends to.
        after: tokens after itself that a token attends to.
    """

    before: int
    after: int


#: Tokens of its text that a token attends to: all, itself and those before it, or a window.
Mask = Literal["full", "causal"] | Window


@dataclass(frozen=True, slots=True)
class SpanConvolution:
    """Convolutions beside the heads of an attention, whose kernels the tokens make (ConvBERT).

    A head's result is the sum of the values around a token, weighted by softmax(kernels(span · query)). The span is
    pointwise(x_around · depthwise), summed over the tokens around. Tokens beyond the ends of a text count as zeros.

    Attributes:
        depthwise: (size, hidden), for the tokens around, the earliest one first.
        pointwise: (hidden, heads · head_size).
        kernels: (heads · head_size, heads · size).
        values: (hidden, heads · head_size).
        size: tokens of a kernel, an odd number; the token itself is in the middle.
    """

    depthwise: Weight
    pointwise: Linear
    kernels: Linear
    values: Linear
    size: int


@dataclass(frozen=True, slots=True)
class GlobalFirst:
    """Global attention of each text's first token, by projections of its own (Longformer's classifiers).

    The first token attends to all tokens by these projections. Every other token attends to it by the attention's own ones,
    also outside its window.

    Attributes:
        query: (hidden, heads · head_size), of the first token.
        key: (hidden, heads · head_size), of all tokens.
        value: (hidden, heads · head_size), of all tokens.
    """

    query: Linear
    key: Linear
    value: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Multi-head self-attention over each text.

    The scores are scale · rotary(query) · rotary(key)ᵀ, plus ALiBi's, the learned and the disentangled bias, inside the mask.

    Attributes:
        query: (hidden, heads · head_size).
        key: (hidden, key heads · head_size).
        value: (hidden, key heads · head_size).
        output: (heads · head_size, hidden), or of twice as many rows with convolutions, whose results come second.
        num_heads: heads of the query.
        num_kv_heads: heads of key and value; fewer than `num_heads` in grouped-query attention.
        head_size: width of a head.
        scale: factor of the scores.
        rotary: positions that rotate queries and keys.
        mask: tokens that a token attends to.
        blockwise: whether a target should compute a symmetric window in blocks, at a cost that grows with the length alone,
            where it can.
        alibi: slope of each head: -slope · |distance| is added to the scores.
        relative_bias: learned bias; layers that share the table share the object.
        query_norm: norm of the projected query, if the family has one: over (heads · head_size), or over each head if its
            weight has the width of a head.
        key_norm: the same of the projected key.
        value_norm: the same of the projected value.
        disentangled: bias by content and distance.
        convolution: as many heads of convolutions beside those of the attention.
        first: global attention of the first token, in addition to a symmetric window.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    rotary: Rotary | None = None
    mask: Mask = "full"
    alibi: tuple[float, ...] | None = None
    relative_bias: RelativeBias | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    value_norm: Norm | None = None
    disentangled: Disentangled | None = None
    convolution: SpanConvolution | None = None
    blockwise: bool = False
    first: GlobalFirst | None = None

    def __post_init__(self) -> None:
        contexts = self.query_heads.width * (1 if self.convolution is None else 2)
        widths = (self.query_heads.width, self.key_heads.width, self.key_heads.width, contexts)
        parts = (self.query.weight.shape[1], self.key.weight.shape[1], self.value.weight.shape[1])
        if (*parts, self.output.weight.shape[0]) != widths:
            raise ValueError(
                f"query, key, value and output of {self.query.weight.name} have the widths "
                f"{(*parts, self.output.weight.shape[0])}, the heads imply {widths}"
            )

    @property
    def query_heads(self) -> Heads:
        """Heads of the query and of the context."""
        return Heads(self.num_heads, self.head_size)

    @property
    def key_heads(self) -> Heads:
        """Heads of key and value."""
        return Heads(self.num_kv_heads, self.head_size)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Feed-forward part: down(activation(up(x))), or down(activation(gate(x)) · up(x)) for gated units.

    Attributes:
        up: (hidden, intermediate).
        down: (intermediate, hidden).
        activation: transformers' name of the activation, one of `activations.AUTHORED`.
        gate: (hidden, intermediate), for gated units.
    """

    up: Linear
    down: Linear
    activation: str
    gate: Linear | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forward part of several experts, a few of which work on each token (NomicBERT).

    The result is the sum over a token's experts of p · down(activation(up(x))), plus the bias; p is the expert's share in the
    softmax of the router's product over all experts.

    Attributes:
        router: (hidden, experts).
        ups: (hidden, intermediate) of each expert, without a bias.
        downs: (intermediate, hidden) of each expert, without a bias.
        activation: transformers' name of the activation, one of `activations.AUTHORED`.
        top: experts that work on a token: those with the largest shares.
        bias: (hidden,), if there is one.
    """

    router: Linear
    ups: tuple[Linear, ...]
    downs: tuple[Linear, ...]
    activation: str
    top: int
    bias: Weight | None


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """Gated convolution over the tokens around each one (LFM2): output(after · convolve(before · value)).

    Before, after and value are the three parts of the input's product. Each element has a kernel of its own. Tokens beyond
    the ends of a text count as zeros.

    Attributes:
        input: (hidden, 3 · hidden): before, after, value.
        kernel: (size, hidden), the earliest token first.
        bias: (hidden,), of the convolution, if there is one.
        output: (hidden, hidden).
        reach: tokens before and after itself that a token's kernel covers.
        sees_tail: whether the tokens of a query's expansion to which no token attends are part of the convolution, instead of
            zeros.
    """

    input: Linear
    kernel: Weight
    bias: Weight | None
    output: Linear
    reach: tuple[int, int]
    sees_tail: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingGate:
    """Gate of a layer by the embeddings (EmbeddingGemma 2): down(activation(gate(x)) · norm(scale · signal(embeddings))).

    Attributes:
        gate: (hidden, width).
        signal: (hidden, width), of the embeddings, before the first layer.
        scale: factor of the signal's product.
        norm: norm of the signal.
        down: (width, hidden).
        activation: transformers' name of the activation, one of `activations.AUTHORED`.
    """

    gate: Linear
    signal: Linear
    scale: float
    norm: Norm
    down: Linear
    activation: str


#: Parts of a layer that a block adds to its input.
Body = Attention | FeedForward | Experts | EmbeddingGate | ShortConvolution


@dataclass(frozen=True, slots=True)
class Block:
    """Residual block: norm_sum(x + norm_after(body(norm_before(x)))); a norm that is None is the identity.

    Attributes:
        body: part of the layer that the block adds to its input; a block for families that add the input a second time.
        norm_before: norm of the body's input.
        norm_after: norm of the body's result.
        norm_sum: norm of the sum.
    """

    body: Body | Block
    norm_before: Norm | None = None
    norm_after: Norm | None = None
    norm_sum: Norm | None = None

    @property
    def core(self) -> Body:
        """Innermost body."""
        return self.body.core if isinstance(self.body, Block) else self.body

    @property
    def norms(self) -> Iterator[Norm]:
        """Norms of the block, of its attention, and of the blocks inside it."""
        if isinstance(self.body, Block):
            yield from self.body.norms
        elif isinstance(self.body, Attention):
            attention = self.body
            normed = (attention.query_norm, attention.key_norm, attention.value_norm)
            yield from (norm for norm in normed if norm is not None)
        elif isinstance(self.body, EmbeddingGate):
            yield self.body.norm
        yield from (norm for norm in (self.norm_before, self.norm_after, self.norm_sum) if norm is not None)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer.

    Attributes:
        name: prefix of its nodes' names.
        blocks: its residual blocks, in the order of computation; at most one of each kind of body.
        scale: factor of the layer's result, (1,), if the family has one.
    """

    name: str
    blocks: tuple[Block, ...]
    scale: Weight | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """Pooling of token vectors to one vector per text; the results of several modes are concatenated in this order.

    Attributes:
        modes: the modes.
        skips_prompt: whether the tokens of a prompt are left out.
    """

    modes: tuple[PoolingMode, ...]
    skips_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Dense:
    """sentence-transformers' Dense module: activation(linear(x)), plus the input where the module is residual.

    Attributes:
        linear: (in, out).
        activation: transformers' name of the activation, or one of `torch_activations.py`.
        is_residual: whether the input is added to the result.
        projection: (in, out), from the input to what is added, where the two widths differ.
    """

    linear: Linear
    activation: str
    is_residual: bool = False
    projection: Linear | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut of each vector after its first elements.

    Attributes:
        length: elements that remain.
    """

    length: int


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scaling to L2 norm 1, as torch.nn.functional.normalize: x / max(|x|, 1e-12)."""


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
    """SPLADE's weights of logits: log(1 + relu(x)), with log(1 + x) applied `times` times in all."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class Activation:
    """Function of each element.

    Attributes:
        name: transformers' name of the activation.
    """

    name: str


@dataclass(frozen=True, slots=True)
class LayerAverage:
    """Sum of the hidden states of all layers instead of the last ones, as the first module.

    Attributes:
        weights: factor of the embeddings and of each layer's result, in this order; their sum is 1.
    """

    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Routes:
    """Modules of which each text takes those of its route, after the pooling.

    Attributes:
        modules: modules of each route, by its number; a route without modules leaves the vector as it is.
    """

    modules: tuple[tuple[Dense | Norm | Normalize | Truncate, ...], ...]


Module = LayerAverage | Pooling | Dense | Norm | Normalize | Truncate | Decoder | Saturation | Activation | Routes


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """Further output of a graph, with a row for each token, computed from the last hidden states.

    Attributes:
        name: name of the output.
        width: elements of a token's row.
        modules: modules from the states to the output.
    """

    name: str
    width: int
    modules: tuple[Dense | Normalize, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Encoder and the modules that follow it.

    Attributes:
        family: `model_type`.
        hidden_size: width of a token vector.
        embedding: token ids to hidden states.
        layers: transformer layers.
        max_positions: longest text that the positions allow, in tokens.
        final_norm: norm after the last layer, for pre-norm families.
        projection: product of the normed result, (width, hidden size), for a family whose layers have another width.
        modules: modules after the encoder, in order. Those before a pooling work on each token's vector, those after it on
            each text's.
        output: name of the graph's output.
        unseen_tail: token id; tokens of this id at a text's end are computed, and no token attends to them (ColBERT's
            expansion).
        token_outputs: outputs besides `output` (BGE-M3).
    """

    family: str
    hidden_size: int
    embedding: Embedding
    layers: tuple[Layer, ...]
    max_positions: int
    final_norm: Norm | None = None
    projection: Linear | None = None
    modules: tuple[Module, ...] = ()
    output: Output = "vectors"
    unseen_tail: int | None = None
    token_outputs: tuple[TokenOutput, ...] = ()

    @property
    def blocks(self) -> Iterator[Block]:
        """Blocks of all layers, in the order of computation."""
        return (block for layer in self.layers for block in layer.blocks)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """Attentions of all layers, in the order of computation."""
        return tuple(core for block in self.blocks if isinstance(core := block.core, Attention))

    @property
    def feed_forwards(self) -> tuple[FeedForward, ...]:
        """Feed-forward parts of all layers, in the order of computation."""
        return tuple(core for block in self.blocks if isinstance(core := block.core, FeedForward))

    @property
    def experts(self) -> tuple[Experts, ...]:
        """Feed-forward parts of several experts, in the order of computation."""
        return tuple(core for block in self.blocks if isinstance(core := block.core, Experts))

    @property
    def short_convolutions(self) -> tuple[ShortConvolution, ...]:
        """Gated convolutions of the layers, in the order of computation."""
        return tuple(core for block in self.blocks if isinstance(core := block.core, ShortConvolution))

    @property
    def norms(self) -> Iterator[Norm]:
        """All norms: of the embeddings, of the layers, of the encoder's result, and of the modules."""
        if self.embedding.norm is not None:
            yield self.embedding.norm
        for block in self.blocks:
            yield from block.norms
        if self.final_norm is not None:
            yield self.final_norm
        for module in self.modules:
            inside = [part for parts in module.modules for part in parts] if isinstance(module, Routes) else [module]
            yield from (part for part in inside if isinstance(part, Norm))
