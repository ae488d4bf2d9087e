"""LFM2: gated short convolutions in most layers and attention in the others; LFM2-ColBERT and LFM2.5-Embedding are of it.

LFM2 is causal: attention as `is_causal` says, convolutions always. Its encoders (`Lfm2BidirectionalModel`, by `architectures`
or by the model type `lfm2_bidirectional`) attend in both directions, and their convolutions are centered. They differ in the
tokens of a query's expansion: transformers' classes take those to which no token attends out of the convolutions, and the
repositories' own class, which has the model type `lfm2`, leaves them in.

Sources: transformers' modeling_lfm2.py, and modeling_lfm2_bidirectional.py of its later versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...architecture import Architecture, Attention, Block, FeedForward, Layer, Mask, ShortConvolution
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import Linear, TensorReader, Weight
from ..settings.reader import Config
from ..settings.values import switch
from .layer import FULL, PREFIXES, UNUSED_HEADS, Sizes, read_causal, read_embedding, read_kv_heads, read_rms_norm
from .rope import RopeContext, read_rope

__all__ = ["describe_lfm2"]

#: Beginning of the names of the encoders' classes.
ENCODER = "Lfm2Bidirectional"

#: Name of a layer with a convolution in `layer_types`.
CONVOLUTION = "conv"

#: Default base of the rotary positions.
THETA = 1_000_000.0

#: Keys that no class reads: they describe the training code's blocks.
UNUSED = (
    *("block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu"),
    *(
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
        "num_heads",
        "theta",
        "tie_embedding",
    ),
    *("use_pos_enc", "disable_flash_attention"),
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Settings of the layers.

    Attributes:
        sizes: sizes of the model.
        attends: whether each layer has attention instead of a convolution.
        kernel: tokens of a convolution's kernel.
        bias: whether the products of a convolution, and itself, have a bias.
        centered: whether a kernel covers as many tokens after its token as before it.
        sees_tail: see `ShortConvolution`.
    """

    sizes: Sizes
    attends: tuple[bool, ...]
    kernel: int
    bias: bool
    centered: bool
    sees_tail: bool


def describe_lfm2(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: lfm2` or `model_type: lfm2_bidirectional`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config, family = Config(checkpoint), str(checkpoint.config["model_type"])
    shape = _read_shape(config, family)
    sizes = shape.sizes
    mask: Mask = "full" if not read_causal(config) or shape.centered else "causal"
    size = config.integer("head_dim", sizes.hidden // sizes.heads)
    kv_heads = read_kv_heads(config, sizes.heads, 8)
    rotary = read_rope(config, RopeContext(size, sizes.positions), theta=THETA)
    config.ignore(*UNUSED)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=PREFIXES)
    embedding = read_embedding(tensors, sizes)
    layers = []
    for index, attends in enumerate(shape.attends):
        name = f"layers.{index}"
        body: Attention | ShortConvolution
        if attends:
            heads = {"q": sizes.heads, "k": kv_heads, "v": kv_heads}
            query, key, value = (
                tensors.linear(f"{name}.self_attn.{part}_proj", sizes.hidden, count * size, bias=False)
                for part, count in heads.items()
            )
            body = Attention(
                query=query,
                key=key,
                value=value,
                output=tensors.linear(f"{name}.self_attn.out_proj", sizes.heads * size, sizes.hidden, bias=False),
                num_heads=sizes.heads,
                num_kv_heads=kv_heads,
                head_size=size,
                scale=size**-0.5,
                rotary=rotary,
                mask=mask,
                query_norm=read_rms_norm(tensors, f"{name}.self_attn.q_layernorm", size, sizes.epsilon),
                key_norm=read_rms_norm(tensors, f"{name}.self_attn.k_layernorm", size, sizes.epsilon),
            )
        else:
            body = _read_convolution(tensors, f"{name}.conv", shape)
        gate, up = (
            tensors.linear(f"{name}.feed_forward.{part}", sizes.hidden, sizes.intermediate, bias=False)
            for part in ("w1", "w3")
        )
        down = tensors.linear(f"{name}.feed_forward.w2", sizes.intermediate, sizes.hidden, bias=False)
        before, between = (
            read_rms_norm(tensors, f"{name}.{norm}", sizes.hidden, sizes.epsilon)
            for norm in ("operator_norm", "ffn_norm")
        )
        unit = FeedForward(up, down, "silu", gate)
        layers.append(Layer(name, (Block(body, norm_before=before), Block(unit, norm_before=between))))
    final_norm = read_rms_norm(tensors, "embedding_norm", sizes.hidden, sizes.epsilon)
    tensors.ignore(*UNUSED_HEADS)
    tensors.finish()
    return Architecture(
        family, sizes.hidden, embedding, tuple(layers), max_positions=sizes.positions, final_norm=final_norm
    )


def _read_shape(config: Config, family: str) -> _Shape:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    sizes = Sizes(
        hidden=hidden,
        intermediate=_intermediate(config),
        layers=config.integer("num_hidden_layers"),
        heads=heads,
        vocabulary=config.integer("vocab_size"),
        positions=config.integer("max_position_embeddings", 128_000),
        epsilon=config.number("norm_eps", 1e-5),
    )
    if config.value("head_dim") is None and hidden % heads:
        raise config.refusal(f"hidden_size {hidden} is not a multiple of the {heads} attention heads")
    centered = family == "lfm2_bidirectional" or _is_encoder(config)
    kernel = config.integer("conv_L_cache", 3)
    if centered and kernel % 2 == 0:
        raise config.refusal(f"conv_L_cache is {kernel}, and a centered convolution of an even number is not authored")
    zero_padding = switch(config, config.file, "conv_zero_padding", not centered or family == "lfm2_bidirectional")
    return _Shape(
        sizes=sizes,
        attends=_attends(config, sizes.layers),
        kernel=kernel,
        bias=switch(config, config.file, "conv_bias", False),
        centered=centered,
        sees_tail=centered and not zero_padding,
    )


def _is_encoder(config: Config) -> bool:
    """Return whether the classes that the configuration names are those of the encoder."""
    names = [*(config.value("architectures") or ()), *(config.value("auto_map") or {}).values()]
    return any(str(name).rpartition(".")[2].startswith(ENCODER) for name in names)


def _intermediate(config: Config) -> int:
    """Return the width inside the feed-forward part, which transformers makes from three keys."""
    width = config.integer("block_ff_dim", config.integer("intermediate_size", 12_288))
    multiplier, multiple = config.value("block_ffn_dim_multiplier", 1.0), config.integer("block_multiple_of", 256)
    if not switch(config, config.file, "block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    if multiplier is None:
        return width
    width = int(config.number("block_ffn_dim_multiplier", 1.0) * width)
    return multiple * ((width + multiple - 1) // multiple)


def _attends(config: Config, layers: int) -> tuple[bool, ...]:
    """Return whether each layer has attention, from `layer_types` or else `full_attn_idxs`."""
    kinds, indices = config.value("layer_types"), config.value("full_attn_idxs")
    if kinds is None:
        attending = range(layers) if indices is None else indices
        return tuple(index in attending for index in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in (FULL, CONVOLUTION) for kind in kinds):
        raise config.refusal(f"layer_types must be {layers} times {FULL} or {CONVOLUTION}, and is {kinds!r}")
    return tuple(kind == FULL for kind in kinds)


def _read_convolution(tensors: TensorReader, name: str, shape: _Shape) -> ShortConvolution:
    hidden, kernel = shape.sizes.hidden, shape.kernel
    stored = tensors.take(f"{name}.conv.weight", (hidden, 1, kernel))
    product: Linear = tensors.linear(f"{name}.in_proj", hidden, 3 * hidden, bias=shape.bias)
    reach = (kernel // 2, kernel // 2) if shape.centered else (kernel - 1, 0)
    return ShortConvolution(
        input=product,
        kernel=Weight(stored.name, (kernel, hidden), lambda: np.ascontiguousarray(stored.load()[:, 0].T)),
        bias=tensors.take(f"{name}.conv.bias", (hidden,)) if shape.bias else None,
        output=tensors.linear(f"{name}.out_proj", hidden, hidden, bias=shape.bias),
        reach=reach,
        sees_tail=shape.sees_tail,
    )
