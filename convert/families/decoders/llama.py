"""Llama, Mistral, Ministral 3 and EuroBERT: one build with other defaults, masks and biases. e5-mistral is a Mistral.

Llama and the Mistrals are causal unless `is_causal` is false; EuroBERT attends in both directions, and so do NVIDIA's classes
(llama-nemotron-embed), whose model types are `llama_bidirec` and `ministral3_bidirec`. Nemotron-3-Embed is a Ministral 3.

Sources: transformers' modeling_llama.py, modeling_mistral.py, modeling_ministral3.py, modeling_eurobert.py; of NVIDIA's NeMo
AutoModel, components/models/llama_bidirectional/model.py (`LlamaBidirectionalModel`) and ministral_bidirectional/model.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...architecture import Architecture, Mask
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import switch
from .layer import (
    PREFIXES,
    UNUSED_HEADS,
    Heading,
    Sizes,
    read_attention,
    read_causal,
    read_embedding,
    read_feed_forward,
    read_head_size,
    read_kv_heads,
    read_layer,
    read_rms_norm,
    read_sizes,
    window_mask,
)
from .rope import RopeContext, read_rope, read_rope_settings

__all__ = [
    "describe_eurobert",
    "describe_llama",
    "describe_llama_bidirec",
    "describe_ministral3",
    "describe_mistral",
    "explain_scale",
]

#: Key of Ministral 3 by which queries at later positions are scaled.
BETA = "llama_4_scaling_beta"

#: Default of `head_dim` in Ministral 3's class.
HEAD_SIZE = 128

#: Rotary positions of Ministral 3's class where the file has none.
MINISTRAL3_ROPE: Mapping[str, Any] = {
    "type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    BETA: 0.1,
}


def describe_llama(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: llama`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=2048)
    mask: Mask = "causal" if read_causal(config) else "full"
    return _describe(checkpoint, config, sizes, mask, kv_heads=None)


def describe_llama_bidirec(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: llama_bidirec`: a Llama that attends in both directions.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=2048)
    config.must_be("is_causal", None, False)
    config.ignore("pooling", "temperature")  # of the classifier, and of the training
    return _describe(checkpoint, config, sizes, "full", kv_heads=None)


def describe_eurobert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: eurobert`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=8192, epsilon=1e-5)
    config.must_be("is_causal", False)
    config.ignore("classifier_pooling")  # of the classifier
    return _describe(checkpoint, config, sizes, "full", kv_heads=None)


def describe_mistral(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: mistral`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=4096 * 32)
    causal = read_causal(config)
    mask: Mask = "causal" if causal else "full"
    if config.value("sliding_window", 4096) is not None:
        mask = window_mask(config.integer("sliding_window", 4096), causal=causal, positions=sizes.positions)
    return _describe(checkpoint, config, sizes, mask, kv_heads=8)


def describe_ministral3(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: ministral3` or `ministral3_bidirec`.

    Queries at positions from `original_max_position_embeddings` on have larger scores. The texts end before them, so that
    nothing is scaled.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=262_144, epsilon=1e-5)
    both = checkpoint.config["model_type"] == "ministral3_bidirec"
    causal = switch(config, config.file, "is_causal", not both)
    if both:
        config.ignore("pooling", "temperature")  # of the reranker, and of the training
    mask: Mask = "causal" if causal else "full"
    if config.value("sliding_window") is not None:
        mask = window_mask(config.integer("sliding_window"), causal=causal, positions=sizes.positions)
    settings = read_rope_settings(config) or MINISTRAL3_ROPE
    longest = _unscaled(config, settings, sizes.positions)
    plain = {key: value for key, value in settings.items() if key not in (BETA, "max_position_embeddings")}
    architecture = _describe(checkpoint, config, sizes, mask, kv_heads=8, rope=plain)
    return dataclasses.replace(architecture, max_positions=longest)


def _unscaled(config: Config, settings: Mapping[str, Any], positions: int) -> int:
    """Return the positions at which Ministral 3 does not scale queries.

    Raises:
        CheckpointError: the scale is missing or not a number, without which transformers fails.
    """
    beta = settings.get(BETA)
    if isinstance(beta, bool) or not isinstance(beta, int | float) or beta < 0:
        raise config.refusal(f"{BETA} of rope_parameters is {beta!r}, where 0 or a positive number was expected")
    scaled_type = settings.get("rope_type", settings.get("type")) in ("llama3", "yarn")
    original = settings.get("original_max_position_embeddings", positions if scaled_type else None)
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        raise config.refusal(
            f"original_max_position_embeddings of rope_parameters is {original!r}, where a positive integer was expected"
        )
    return positions if beta == 0 else min(positions, original)


def explain_scale() -> str:
    """Return why the texts of a Ministral 3 may end before its last position, as the rest of a sentence."""
    return f" (Fletcher does not scale queries at later ones, which {BETA} asks for)"


def _describe(
    checkpoint: Checkpoint,
    config: Config,
    sizes: Sizes,
    mask: Mask,
    *,
    kv_heads: int | None,
    rope: Mapping[str, Any] | None = None,
) -> Architecture:
    """Read the rest of the configuration, and the tensors.

    Args:
        checkpoint: the checkpoint.
        config: its configuration.
        sizes: sizes of the model.
        mask: mask of every layer.
        kv_heads: default of `num_key_value_heads`.
        rope: settings of the rotary positions. Default: those of the configuration.
    """
    family = str(checkpoint.config["model_type"])
    biased = "istral" not in family  # the Mistrals' classes have no switches for biases
    attention_bias, mlp_bias = (
        biased and switch(config, config.file, key, False) for key in ("attention_bias", "mlp_bias")
    )
    size = read_head_size(config, sizes, divides=biased, default=HEAD_SIZE if "ministral3" in family else None)
    heading = Heading(
        num_heads=sizes.heads,
        num_kv_heads=read_kv_heads(config, sizes.heads, kv_heads),
        head_size=size,
        scale=size**-0.5,
        rotary=read_rope(config, RopeContext(size, sizes.positions), settings=rope),
        mask=mask,
        input_bias=attention_bias,
        output_bias=attention_bias,
    )
    activation = check_activation(config.value("hidden_act", "silu"), config.where("hidden_act"))
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes)
    layers = []
    for name in (f"layers.{index}" for index in range(sizes.layers)):
        attention = read_attention(tensors, name, sizes.hidden, heading)
        feed_forward = read_feed_forward(tensors, name, sizes, activation, bias=mlp_bias)
        layers.append(read_layer(tensors, name, sizes, (attention, feed_forward)))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        family, sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )
