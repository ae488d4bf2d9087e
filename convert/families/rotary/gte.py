"""GTE v1.5: post-norm, rotary positions, gated units; gte-base-en, gte-large-en, gte-multilingual, arctic-embed-m-v2.0.

There are two layouts of one architecture: `NewModel` of the original repository (`qkv_proj`, `up_gate_proj`) and
transformers' own `GteModel` (`q_proj`, `up_proj`).

Sources: modeling.py of huggingface.co/Alibaba-NLP/new-impl; transformers' modeling_gte.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from fletcher.runtime.errors import CheckpointError

from ...architecture import Architecture, Embedding, Layer, Rotary
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import frequencies, head_size, positive, read_rotary, switch
from .gated_layer import GatedShape, read_gated_layer, rotary_layer

__all__ = ["describe_gte"]

#: Default bases, by `model_type`.
THETA = {"new": 10_000.0, "gte": 160_000.0}


def describe_gte(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: new` or `model_type: gte`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config, file = Config(checkpoint), checkpoint.folder / "config.json"
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    vocabulary = config.integer("vocab_size")
    positions = config.integer("max_position_embeddings")
    types = config.count("type_vocab_size", 1)
    rotary, stretch = _rotary(config, file, head_size(file, hidden, heads), str(checkpoint.config["model_type"]))
    shape = GatedShape(
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        heads=heads,
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=check_activation(config.value("hidden_act", "gelu"), f"{file}: hidden_act"),
        rotary=rotary,
        attention_bias=True,
        up_bias=False,
        down_bias=True,
    )
    packed = switch(config, file, "pack_qkv", True)
    config.must_be("position_embedding_type", "rope")
    config.must_be("layer_norm_type", "layer_norm")
    for key in ("logn_attention_scale", "logn_attention_clip1"):
        config.must_be(key, False, None)
    config.ignore("unpad_inputs", "use_memory_efficient_attention")  # kernels with the same results
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("new.", "gte."))
    token_type = None
    if types:
        token_type = tensors.row("embeddings.token_type_embeddings.weight", (types, hidden), 0)
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        positions=None,
        token_type=token_type,
        norm=tensors.norm("embeddings.LayerNorm", hidden, shape.epsilon),
    )
    original = partial(_original_layer, packed=packed)
    read = original if tensors.has("encoder.layer.0.attn_ln.weight") else read_gated_layer
    layers = tuple(read(tensors, shape, index) for index in range(num_layers))
    tensors.ignore("pooler.", "lm_head.", "classifier.")
    tensors.finish()
    return Architecture("gte", hidden, embedding, layers, max_positions=int(positions * stretch))


def _rotary(config: Config, file: Path, width: int, model_type: str) -> tuple[Rotary, float]:
    """Return the rotary positions, and the factor by which they exceed the configured number of positions."""
    theta = config.number("rope_theta", THETA[model_type])
    scaling, parameters = config.value("rope_scaling"), config.value("rope_parameters")
    if scaling is None:
        return read_rotary(parameters, file, "rotary", width, theta), 1.0
    if parameters is not None:
        raise CheckpointError(f"{file} has both rope_scaling and rope_parameters: remove one of them in a copy")
    if (
        not isinstance(scaling, Mapping)
        or not set(scaling) <= {"type", "factor", "mixed_b"}
        or scaling.get("type") != "ntk"
    ):
        raise CheckpointError(
            f"{file}: rope_scaling is {scaling!r}; Fletcher authors type ntk, with factor and mixed_b"
        )
    factor = positive(scaling.get("factor"), file, "the factor of rope_scaling")
    mixed = None if scaling.get("mixed_b") is None else positive(scaling["mixed_b"], file, "mixed_b of rope_scaling")
    return Rotary("rotary", _ntk(theta, width, factor, mixed)), max(1.0, factor)


def _ntk(theta: float, width: int, factor: float, mixed: float | None) -> tuple[float, ...]:
    """Return NTK-aware frequencies, fixed or mixed, in float32 as the original computes them.

    Source: equations 6 and 10 to 13 of kexue.fm/archives/9706, as in `NTKScalingRotaryEmbedding`.
    """
    if factor <= 1:
        return frequencies(theta, width)
    if mixed is None:
        pairs = np.array(frequencies(theta * factor, width), np.float32)
        return tuple((pairs / np.float32(factor ** (2 / width))).tolist())
    pairs = np.array(frequencies(theta, width), np.float32)
    rate = np.float32(math.log(factor)) / np.float32((width / 2) ** mixed)
    steps = np.arange(1, width // 2 + 1, dtype=np.float32) ** np.float32(mixed)
    return tuple((pairs / np.exp(rate * steps)).tolist())


def _original_layer(tensors: TensorReader, shape: GatedShape, index: int, *, packed: bool) -> Layer:
    hidden, name = shape.hidden, f"encoder.layer.{index}"
    if packed:
        widths = {"query": hidden, "key": hidden, "value": hidden}
        query, key, value = tensors.linears(f"{name}.attention.qkv_proj", hidden, widths)
    else:
        query, key, value = (tensors.linear(f"{name}.attention.{part}_proj", hidden, hidden) for part in "qkv")
    output = tensors.linear(f"{name}.attention.o_proj", hidden, hidden)
    halves = {"up": shape.intermediate, "gate": shape.intermediate}
    up, gate = tensors.linears(f"{name}.mlp.up_gate_proj", hidden, halves, bias=False)
    down = tensors.linear(f"{name}.mlp.down_proj", shape.intermediate, hidden)
    return rotary_layer(tensors, shape, name, (query, key, value, output), (up, gate, down), ("attn_ln", "mlp_ln"))
