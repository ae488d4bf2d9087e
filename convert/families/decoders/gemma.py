"""Gemma and Gemma 3: scaled embeddings, and norms with the factor 1 + weight; Gemma 3 has head norms and sandwich norms, too.

EmbeddingGemma-300m is a Gemma 3 whose attention goes in both directions; bge-reranker-v2-gemma is a Gemma.

Sources: transformers' modeling_gemma.py, modeling_gemma3.py and their configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...architecture import Architecture, Attention, Block, FeedForward, Layer, Mask, Window
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..settings.reader import Config
from ..settings.values import switch
from .layer import (
    FULL,
    PREFIXES,
    SLIDING,
    UNUSED_HEADS,
    Heading,
    Sizes,
    read_attention,
    read_causal,
    read_embedding,
    read_feed_forward,
    read_kinds,
    read_kv_heads,
    read_layer,
    read_rms_norm,
    read_sizes,
    window_mask,
    with_head_norms,
)
from .rope import RopeContext, read_layer_ropes, read_rope

__all__ = ["describe_gemma", "describe_gemma3", "read_sandwich"]

#: Defaults of Gemma 3's class.
POSITIONS, HEAD_SIZE, SCALAR, WINDOW, PATTERN = 131_072, 256, 256, 4096, 6
THETAS: Mapping[str, tuple[str, float]] = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}


def describe_gemma(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: gemma`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=8192)
    size = config.integer("head_dim", 256)
    bias = switch(config, config.file, "attention_bias", False)
    # transformers reads it in one of two places, so that the result depends on the kernel.
    config.must_be("use_bidirectional_attention", None, False)
    heading = Heading(
        num_heads=sizes.heads,
        num_kv_heads=read_kv_heads(config, sizes.heads, 16),
        head_size=size,
        scale=size**-0.5,
        rotary=read_rope(config, RopeContext(size, sizes.positions)),
        mask="causal" if read_causal(config) else "full",
        input_bias=bias,
        output_bias=bias,
    )
    config.must_be("hidden_activation", None, "gelu_pytorch_tanh")  # an older name, which transformers 5 does not read
    name = config.value("hidden_act", "gelu_pytorch_tanh")
    # transformers takes the old name for the tanh form, which the models were trained with.
    activation = check_activation("gelu_pytorch_tanh" if name == "gelu" else name, config.where("hidden_act"))
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes, scaled=True)
    layers = []
    for layer in (f"layers.{index}" for index in range(sizes.layers)):
        attention = read_attention(tensors, layer, sizes.hidden, heading)
        feed_forward = read_feed_forward(tensors, layer, sizes, activation)
        layers.append(read_layer(tensors, layer, sizes, (attention, feed_forward), plus_one=True))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon, plus_one=True)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        "gemma", sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )


def describe_gemma3(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: gemma3_text`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config, positions=POSITIONS)
    if sizes.hidden % sizes.heads:
        raise config.refusal(f"hidden_size {sizes.hidden} is not a multiple of the {sizes.heads} attention heads")
    size = config.integer("head_dim", HEAD_SIZE)
    bias = switch(config, config.file, "attention_bias", False)
    kinds, masks = _kinds(config, sizes)
    context = RopeContext(size, sizes.positions)
    rotaries = read_layer_ropes(config, {FULL: context, SLIDING: context}, THETAS)
    config.must_be("attn_logit_softcapping", None)
    config.ignore("final_logit_softcapping", "cache_implementation")  # of the vocabulary's logits, and of generation
    headings = {
        kind: Heading(
            num_heads=sizes.heads,
            num_kv_heads=read_kv_heads(config, sizes.heads, 4),
            head_size=size,
            scale=config.integer("query_pre_attn_scalar", SCALAR) ** -0.5,
            rotary=rotaries[kind],
            mask=masks[kind],
            input_bias=bias,
            output_bias=bias,
        )
        for kind in (FULL, SLIDING)
    }
    activation = check_activation(
        config.value("hidden_activation", "gelu_pytorch_tanh"), config.where("hidden_activation")
    )
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes, scaled=True)
    layers = []
    for index, kind in enumerate(kinds):
        name = f"layers.{index}"
        attention = read_attention(tensors, name, sizes.hidden, headings[kind])
        attention = with_head_norms(tensors, name, attention, sizes.epsilon, plus_one=True)
        bodies = (attention, read_feed_forward(tensors, name, sizes, activation))
        layers.append(Layer(name, read_sandwich(tensors, name, sizes, bodies, plus_one=True)))
    final_norm = read_rms_norm(tensors, "norm", sizes.hidden, sizes.epsilon, plus_one=True)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        "gemma3_text", sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )


def read_sandwich(
    tensors: TensorReader, name: str, sizes: Sizes, bodies: tuple[Attention, FeedForward], *, plus_one: bool
) -> tuple[Block, Block]:
    """Return the blocks x + norm_after(body(norm_before(x))) of the layer `NAME`.

    Args:
        tensors: tensors of the checkpoint.
        name: prefix of the layer's tensors.
        sizes: sizes of the model.
        bodies: attention and feed-forward part.
        plus_one: see `read_rms_norm`.
    """
    names = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    before, after, before_unit, after_unit = (
        read_rms_norm(tensors, f"{name}.{norm}_layernorm", sizes.hidden, sizes.epsilon, plus_one=plus_one)
        for norm in names
    )
    attention, feed_forward = bodies
    return Block(attention, before, after), Block(feed_forward, before_unit, after_unit)


def _kinds(config: Config, sizes: Sizes) -> tuple[Sequence[str], Mapping[str, Mask]]:
    """Return the kind of attention of each layer, and the mask of each kind.

    In both directions, the window that the file states counts both sides: 512 is 256 tokens on each.
    """
    pattern = config.integer("sliding_window_pattern", PATTERN)
    default = [FULL if (index + 1) % pattern == 0 else SLIDING for index in range(sizes.layers)]
    kinds = read_kinds(config, sizes.layers, default)
    if config.value("layer_types") is None:
        # transformers writes the pattern under this name beside the kinds, and reads it under no name.
        config.must_be("_sliding_window_pattern", None, pattern)
    config.ignore("_sliding_window_pattern")
    both = config.value("use_bidirectional_attention", False)
    if both not in (None, True, False):
        raise config.refusal(f"use_bidirectional_attention is {both!r}, where true, false or null was expected")
    causal = read_causal(config)
    if both and not causal:
        raise config.refusal("both use_bidirectional_attention and is_causal ask for both directions: keep the first")
    window = config.integer("sliding_window", WINDOW) if config.value("sliding_window", WINDOW) is not None else None
    if window is None:
        if SLIDING in kinds or both:
            raise config.refusal(f"sliding_window is null, which layers of {SLIDING} and both directions need")
        return kinds, {FULL: "causal" if causal else "full", SLIDING: "full"}
    if both:
        side = window // 2
        return kinds, {FULL: "full", SLIDING: "full" if side >= sizes.positions else Window(side, side)}
    local = window_mask(window, causal=causal, positions=sizes.positions)
    return kinds, {FULL: "causal" if causal else "full", SLIDING: local}
