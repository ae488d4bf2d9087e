"""The encoder of T5 and mT5: RMS norms before each part, no biases, scores without a scale, and a learned bias by distance.

sentence-t5 and gtr are such encoders. The decoder, if the checkpoint has one, is left out, as sentence-transformers does.

Source: transformers' modeling_t5.py (`T5EncoderModel`).
"""

from __future__ import annotations

from ..architecture import Architecture, Attention, Block, Embedding, FeedForward, Layer, RelativeBias
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Norm, TensorReader
from ..graph.activations import check_activation
from .settings.reader import Config

__all__ = ["describe_t5"]

#: Longest text in tokens. Distances have buckets, so that no length is too long; the bias's table grows with this number.
MAX_POSITIONS = 8192

#: Keys of the decoder, of training, and of classes that transformers no longer has.
UNUSED = (
    *("num_decoder_layers", "dropout_rate", "initializer_factor", "n_positions", "output_past", "dense_act_fn"),
    *("is_gated_act", "scale_decoder_outputs", "task_specific_params", "decoder_start_token_id"),
)


def describe_t5(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: t5` or `mt5`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    hidden, heads, head_size = config.integer("d_model"), config.integer("num_heads"), config.integer("d_kv")
    layers, width = config.integer("num_layers"), config.integer("d_ff")
    vocabulary, epsilon = config.integer("vocab_size"), config.number("layer_norm_epsilon", 1e-6)
    buckets = config.integer("relative_attention_num_buckets", 32)
    distance = config.integer("relative_attention_max_distance", 128)
    activation, is_gated = _activation(config)
    config.ignore(*UNUSED)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=())
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = RelativeBias(tensors.take(table, (buckets, heads)), distance)

    def norm(name: str) -> Norm:
        weight = tensors.take(f"{name}.weight", (hidden,))
        return Norm(weight, None, epsilon, "rms_norm")

    def read_layer(index: int) -> Layer:
        attention, feed_forward = f"encoder.block.{index}.layer.0", f"encoder.block.{index}.layer.1"
        inner = heads * head_size
        query, key, value = (
            tensors.linear(f"{attention}.SelfAttention.{part}", hidden, inner, bias=False) for part in "qkv"
        )
        up = "wi_1" if is_gated else "wi"
        return Layer(
            f"encoder.block.{index}",
            (
                Block(
                    Attention(
                        query=query,
                        key=key,
                        value=value,
                        output=tensors.linear(f"{attention}.SelfAttention.o", inner, hidden, bias=False),
                        num_heads=heads,
                        num_kv_heads=heads,
                        head_size=head_size,
                        scale=1.0,
                        relative_bias=bias,
                    ),
                    norm_before=norm(f"{attention}.layer_norm"),
                ),
                Block(
                    FeedForward(
                        up=tensors.linear(f"{feed_forward}.DenseReluDense.{up}", hidden, width, bias=False),
                        down=tensors.linear(f"{feed_forward}.DenseReluDense.wo", width, hidden, bias=False),
                        activation=activation,
                        gate=tensors.linear(f"{feed_forward}.DenseReluDense.wi_0", hidden, width, bias=False)
                        if is_gated
                        else None,
                    ),
                    norm_before=norm(f"{feed_forward}.layer_norm"),
                ),
            ),
        )

    word = tensors.take("shared.weight", (vocabulary, hidden), aliases=("encoder.embed_tokens.weight",))
    architecture = Architecture(
        str(checkpoint.config["model_type"]),
        hidden,
        Embedding(word, None, None, None),
        tuple(read_layer(index) for index in range(layers)),
        max_positions=MAX_POSITIONS,
        final_norm=norm("encoder.final_layer_norm"),
    )
    # The decoder and its output, and a second name of the table.
    tensors.ignore("decoder.", "lm_head.", "encoder.embed_tokens.")
    tensors.finish()
    return architecture


def _activation(config: Config) -> tuple[str, bool]:
    """Return the activation, and whether it is that of a gate; Google's `gated-gelu` is the tanh approximation."""
    name = config.value("feed_forward_proj", "relu")
    gate, separator, activation = str(name).rpartition("-")
    if separator and gate != "gated":
        raise config.refusal(f"feed_forward_proj is {name!r}, where `gated-FUNCTION` or `FUNCTION` was expected")
    if name == "gated-gelu":
        return "gelu_new", True
    return check_activation(activation, config.where("feed_forward_proj")), bool(separator)
