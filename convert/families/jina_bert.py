"""JinaBERT v2: post-norm, ALiBi in both directions, gated units; jina-embeddings-v2.

Its configuration has `model_type: bert` with `position_embedding_type: alibi`. There are two implementations, which differ
in the names of their tensors. In jina-bert-implementation (small-en, base-en) the first half of the packed tensor is the
gate. In jina-bert-v2-qk-post-norm (base-code and the bilingual ones) the second half is the gate; queries and keys are
normed, and the attention's input is added, and the sum normed, a second time.

Sources: modeling_bert.py of these two repositories of huggingface.co/jinaai, read in adaptations of them: transformers'
unmerged `jina_bert` for the second, and two servers' ports for the first.
"""

from __future__ import annotations

import math

from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Attention, Block, Embedding, FeedForward, Layer
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from ..graph.activations import check_activation
from .settings.reader import Config
from .settings.values import head_size

__all__ = ["alibi_slopes", "describe_jina_bert"]

#: The gate's activation by `feed_forward_type`.
GATES = {"geglu": "gelu", "reglu": "relu"}


def describe_jina_bert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: bert` and `position_embedding_type: alibi`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config, file = Config(checkpoint), checkpoint.folder / "config.json"
    hidden = config.integer("hidden_size")
    intermediate = config.integer("intermediate_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    vocabulary = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings")
    types = config.integer("type_vocab_size", 2)
    epsilon = config.number("layer_norm_eps", 1e-12)
    kind = config.value("feed_forward_type", "original")
    if kind not in GATES:
        raise CheckpointError(f"{file}: feed_forward_type is {kind!r}; Fletcher authors {', '.join(GATES)}")
    check_activation(config.value("hidden_act", "gelu"), f"{file}: hidden_act")  # the gate has its own
    config.must_be("position_embedding_type", "alibi")
    config.ignore("emb_pooler")  # of the method `encode`; the card has the pooling
    config.finish()
    size = head_size(file, hidden, heads)

    tensors = TensorReader(checkpoint, prefixes=("bert.",))
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        positions=None,
        token_type=tensors.row("embeddings.token_type_embeddings.weight", (types, hidden), 0),
        norm=tensors.norm("embeddings.LayerNorm", hidden, epsilon),
    )
    normed = tensors.has("encoder.layer.0.layer_norm_1.weight")
    slopes = alibi_slopes(heads)
    layers = []
    for index in range(num_layers):
        name = f"encoder.layer.{index}"
        query, key, value = (
            tensors.linear(f"{name}.attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")
        )
        attention = Attention(
            query=query,
            key=key,
            value=value,
            output=tensors.linear(f"{name}.attention.output.dense", hidden, hidden),
            num_heads=heads,
            num_kv_heads=heads,
            head_size=size,
            scale=1 / math.sqrt(size),
            alibi=slopes,
            query_norm=tensors.norm(f"{name}.attention.self.layer_norm_q", hidden, epsilon) if normed else None,
            key_norm=tensors.norm(f"{name}.attention.self.layer_norm_k", hidden, epsilon) if normed else None,
        )
        packed = f"{name}.mlp.up_gated_layer" if normed else f"{name}.mlp.gated_layers"
        order = ("up", "gate") if normed else ("gate", "up")
        halves = dict(
            zip(order, tensors.linears(packed, hidden, dict.fromkeys(order, intermediate), bias=False), strict=True)
        )
        down = tensors.linear(f"{name}.mlp.down_layer" if normed else f"{name}.mlp.wo", intermediate, hidden)
        attend = Block(attention, norm_sum=tensors.norm(f"{name}.attention.output.LayerNorm", hidden, epsilon))
        if normed:
            attend = Block(attend, norm_sum=tensors.norm(f"{name}.layer_norm_1", hidden, epsilon))
        widen = Block(
            FeedForward(halves["up"], down, GATES[kind], halves["gate"]),
            norm_sum=tensors.norm(f"{name}.layer_norm_2" if normed else f"{name}.mlp.layernorm", hidden, epsilon),
        )
        layers.append(Layer(name, (attend, widen)))
    tensors.ignore("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.", "classifier.")
    tensors.finish()
    return Architecture("jina_bert", hidden, embedding, tuple(layers), max_positions=positions)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Return ALiBi's slopes: 2^(-8/n), 2^(-16/n), … for n heads.

    If n is not a power of two, they are the slopes of the next smaller power, then every second one of the next larger power.

    Source: "Train Short, Test Long", arxiv.org/abs/2108.12409, and its authors' code for other numbers of heads.
    """
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (index + 1) / power) for index in range(power)]
    between = [2 ** (-8 * (index + 1) / (2 * power)) for index in range(0, 2 * power, 2)]
    return tuple((slopes + between)[:num_heads])
