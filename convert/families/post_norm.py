"""Parts of BERT and its descendants: sizes, a sum of embeddings, and layers of norm(x + f(x)).

The families differ in the names of their tensors (`Names`) and sizes (`Keys`), and in parts that they add or omit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..architecture import Attention, Block, Embedding, FeedForward, Layer, LearnedPositions, RelativeBias
from ..checkpoint.tensors import Linear, TensorReader
from ..graph.activations import check_activation
from .settings.reader import Config

__all__ = ["BERT_KEYS", "BERT_NAMES", "Keys", "Names", "Sizes", "read_embedding", "read_layer", "read_sizes"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of a family's sizes in `config.json`.

    Attributes:
        hidden: width of a token vector.
        intermediate: width inside the feed-forward part.
        heads: attention heads.
        layers: number of layers.
        activation: activation of the feed-forward part.
        epsilon: epsilon of every norm; None if the family has a fixed one.
    """

    hidden: str = "hidden_size"
    intermediate: str = "intermediate_size"
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    activation: str = "hidden_act"
    epsilon: str | None = "layer_norm_eps"


BERT_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        hidden: width of a token vector.
        intermediate: width inside the feed-forward part.
        heads: attention heads.
        layers: number of layers.
        vocabulary: rows of the word table.
        positions: rows of the position table.
        epsilon: epsilon of every norm.
        activation: transformers' name of the activation.
    """

    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocabulary: int
    positions: int
    epsilon: float
    activation: str


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a layer's tensors, without the layer's prefix and without `.weight` and `.bias`."""

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    feed_forward_norm: str


BERT_NAMES = Names(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    feed_forward_norm="output.LayerNorm",
)


def read_sizes(config: Config, keys: Keys = BERT_KEYS, *, activation: str = "gelu") -> Sizes:
    """Read the sizes; the default epsilon of every descendant of BERT is 1e-12.

    Args:
        config: configuration.
        keys: keys of the sizes.
        activation: the family's default activation.

    Raises:
        CheckpointError: a size is missing or invalid, or the activation is not authored.
    """
    hidden, heads = config.integer(keys.hidden), config.integer(keys.heads)
    if hidden % heads:
        raise config.refusal(f"{keys.hidden} {hidden} is not a multiple of {keys.heads} {heads}")
    if (positions := config.value("position_embedding_type")) in ("relative_key", "relative_key_query"):
        raise config.refusal(
            f"position_embedding_type is {positions!r}, which Fletcher does not author: use --exporter optimum, whose "
            "transformers 4 computes it (transformers 5 ignores it)"
        )
    config.must_be("position_embedding_type", "absolute", None)
    return Sizes(
        hidden=hidden,
        intermediate=config.integer(keys.intermediate),
        heads=heads,
        layers=config.integer(keys.layers),
        vocabulary=config.integer("vocab_size"),
        positions=config.integer("max_position_embeddings"),
        epsilon=1e-12 if keys.epsilon is None else config.number(keys.epsilon, 1e-12),
        activation=check_activation(config.value(keys.activation, activation), config.where(keys.activation)),
    )


def read_embedding(
    tensors: TensorReader,
    sizes: Sizes,
    *,
    width: int | None = None,
    types: int | None,
    padding_id: int | None = None,
    projection: str | None = None,
) -> Embedding:
    """Read the sum of word, position and token type embeddings, and its norm.

    Args:
        tensors: tensors of the checkpoint.
        sizes: sizes of the model.
        width: width of the tables. Default: the hidden size.
        types: rows of the token type table; None for a family without token types.
        padding_id: see `LearnedPositions`.
        projection: name of the product from the tables' width to the hidden size, if there is one.
    """
    width = sizes.hidden if width is None else width
    table = "embeddings.token_type_embeddings.weight"
    return Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (sizes.vocabulary, width)),
        positions=LearnedPositions(
            tensors.take("embeddings.position_embeddings.weight", (sizes.positions, width)), padding_id
        ),
        token_type=None if types is None else tensors.row(table, (types, width), 0),
        norm=tensors.norm("embeddings.LayerNorm", width, sizes.epsilon),
        projection=None if projection is None else tensors.linear(projection, width, sizes.hidden),
    )


def read_layer(
    tensors: TensorReader,
    sizes: Sizes,
    names: Names,
    prefix: str,
    *,
    name: str | None = None,
    relative_bias: RelativeBias | None = None,
) -> Layer:
    """Read one layer.

    Args:
        tensors: tensors of the checkpoint.
        sizes: sizes of the model.
        names: names of the layer's tensors.
        prefix: prefix of these names.
        name: prefix of the nodes' names. Default: the prefix of the tensors.
        relative_bias: the learned bias that all layers share, if the family has one.
    """

    def linear(part: str, num_in: int, num_out: int) -> Linear:
        return tensors.linear(f"{prefix}.{part}", num_in, num_out)

    hidden, head_size = sizes.hidden, sizes.hidden // sizes.heads
    attention = Attention(
        query=linear(names.query, hidden, hidden),
        key=linear(names.key, hidden, hidden),
        value=linear(names.value, hidden, hidden),
        output=linear(names.output, hidden, hidden),
        num_heads=sizes.heads,
        num_kv_heads=sizes.heads,
        head_size=head_size,
        scale=1 / math.sqrt(head_size),
        relative_bias=relative_bias,
    )
    feed_forward = FeedForward(
        up=linear(names.up, hidden, sizes.intermediate),
        down=linear(names.down, sizes.intermediate, hidden),
        activation=sizes.activation,
    )
    attention_norm, feed_forward_norm = (
        tensors.norm(f"{prefix}.{norm}", hidden, sizes.epsilon)
        for norm in (names.attention_norm, names.feed_forward_norm)
    )
    blocks = (Block(attention, norm_sum=attention_norm), Block(feed_forward, norm_sum=feed_forward_norm))
    return Layer(name or prefix, blocks)
