"""ModernBERT: pre-norm, rotary positions with two bases, a global layer after every few local ones, gated units, no biases.

Source: transformers' modeling_modernbert.py (`ModernBertModel`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Attention, Block, Embedding, FeedForward, Layer, Rotary, Window
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader
from ..graph.activations import check_activation
from .settings.reader import Config
from .settings.values import head_size, read_rotary, switch

__all__ = ["describe_modernbert"]

GLOBAL, LOCAL = "full_attention", "sliding_attention"
THETA = {GLOBAL: 160_000.0, LOCAL: 10_000.0}
#: Keys of training, of the heads, of other implementations of the same attention, and keys that no version of the class
#: reads.
UNUSED = (
    "attention_dropout",
    "classifier_activation",
    "classifier_bias",
    "classifier_pooling",
    "decoder_bias",
    "deterministic_flash_attn",
    "embedding_dropout",
    "initializer_cutoff_factor",
    "layer_norm_eps",
    "mlp_dropout",
    "position_embedding_type",
    "reference_compile",
    "repad_logits_with_grad",
    "sparse_pred_ignore_index",
    "sparse_prediction",
)


def describe_modernbert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: modernbert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config, file = Config(checkpoint), checkpoint.folder / "config.json"
    if config.value("classifier_dropout", 0.0) is None:
        raise config.refusal("classifier_dropout is null, and transformers needs a number: correct it in a copy")
    hidden = config.integer("hidden_size")
    intermediate = config.integer("intermediate_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    vocabulary = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings", 8192)
    epsilon = config.number("norm_eps", 1e-5)
    norm_bias = switch(config, file, "norm_bias", False)
    attention_bias = switch(config, file, "attention_bias", False)
    mlp_bias = switch(config, file, "mlp_bias", False)
    activation = check_activation(config.value("hidden_activation", "gelu"), f"{file}: hidden_activation")
    side = config.integer("local_attention", 128) // 2
    kinds = _layer_kinds(config, file, num_layers)
    size = head_size(file, hidden, heads)
    rotaries = _rotaries(config, file, size)
    config.must_be("rope_scaling", None)
    config.ignore(*UNUSED)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("model.",))
    embedding = Embedding(
        word=tensors.take("embeddings.tok_embeddings.weight", (vocabulary, hidden)),
        positions=None,
        token_type=None,
        norm=tensors.norm("embeddings.norm", hidden, epsilon, bias=norm_bias),
    )
    layers = []
    for index, layer_kind in enumerate(kinds):
        name = f"layers.{index}"
        widths = {"query": hidden, "key": hidden, "value": hidden}
        query, key, value = tensors.linears(f"{name}.attn.Wqkv", hidden, widths, bias=attention_bias)
        gate, up = tensors.linears(f"{name}.mlp.Wi", hidden, {"gate": intermediate, "up": intermediate}, bias=mlp_bias)
        attention = Attention(
            query=query,
            key=key,
            value=value,
            output=tensors.linear(f"{name}.attn.Wo", hidden, hidden, bias=attention_bias),
            num_heads=heads,
            num_kv_heads=heads,
            head_size=size,
            scale=1 / math.sqrt(size),
            rotary=rotaries[layer_kind],
            mask=Window(side, side) if layer_kind == LOCAL else "full",
        )
        feed_forward = FeedForward(
            up=up,
            down=tensors.linear(f"{name}.mlp.Wo", intermediate, hidden, bias=mlp_bias),
            activation=activation,
            gate=gate,
        )
        # The first layer's attention has no norm of its own: the embedding's norm stands before it.
        attention_norm = tensors.norm(f"{name}.attn_norm", hidden, epsilon, bias=norm_bias) if index else None
        feed_forward_norm = tensors.norm(f"{name}.mlp_norm", hidden, epsilon, bias=norm_bias)
        blocks = (Block(attention, norm_before=attention_norm), Block(feed_forward, norm_before=feed_forward_norm))
        layers.append(Layer(name, blocks))
    final_norm = tensors.norm("final_norm", hidden, epsilon, bias=norm_bias)
    tensors.ignore("head.", "decoder.", "classifier.")
    tensors.finish()
    return Architecture("modernbert", hidden, embedding, tuple(layers), max_positions=positions, final_norm=final_norm)


def _layer_kinds(config: Config, file: Path, num_layers: int) -> list[str]:
    """Return the kind of attention of each layer: from `layer_types`, else from `global_attn_every_n_layers`."""
    every = config.integer("global_attn_every_n_layers", 3)
    kinds = config.value("layer_types")
    if kinds is None:
        return [LOCAL if index % every else GLOBAL for index in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or not set(kinds) <= {GLOBAL, LOCAL}:
        raise CheckpointError(f"{file}: layer_types must be {num_layers} times {GLOBAL} or {LOCAL}, and is {kinds!r}")
    return kinds


def _rotaries(config: Config, file: Path, width: int) -> Mapping[str, Rotary]:
    """Return the rotary positions of both kinds of layers, from the old keys or from the newer `rope_parameters`."""
    theta = {
        GLOBAL: config.number("global_rope_theta", THETA[GLOBAL]),
        LOCAL: config.number("local_rope_theta", THETA[LOCAL]),
    }
    parameters = config.value("rope_parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping) or not set(parameters) <= {GLOBAL, LOCAL}:
        raise CheckpointError(f"{file}: rope_parameters must be of {GLOBAL} and {LOCAL}, and is {parameters!r}")
    names = {GLOBAL: "rotary.global", LOCAL: "rotary.local"}
    return {kind: read_rotary(parameters.get(kind), file, names[kind], width, theta[kind]) for kind in names}
