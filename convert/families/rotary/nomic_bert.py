"""NomicBERT: post-norm, rotary positions, gated units, no biases; nomic-embed-text v1 and v1.5; v2 with experts.

There are two layouts of one architecture: the original repository's (`n_embd`, `Wqkv`, `fc11`) and that of transformers' own
class (`hidden_size`, `q_proj`, `up_proj`). The configuration and the tensors can each have either layout.

nomic-embed-text-v2-moe has experts in every second layer, which transformers' class lacks.

Sources: modeling_hf_nomic_bert.py of github.com/nomic-ai/contrastors and of huggingface.co/nomic-ai/nomic-bert-2048, whose
experts were read in vLLM's bert_with_rope.py; transformers' modeling_nomic_bert.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fletcher.runtime.errors import CheckpointError

from ...architecture import Architecture, Block, Embedding, Experts, Layer, Rotary
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..decoders.rope import RopeContext, rotary_of
from ..settings.reader import Config
from ..settings.values import agreed, frequencies, head_size, positive, read_rotary, switch
from .gated_layer import GatedShape, read_gated_layer, rotary_attention, rotary_layer

__all__ = ["describe_nomic_bert"]

#: Activation of the gate by the original's `activation_function`; None for a unit without a gate, which has the exact GELU.
GATES = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid", "gelu": None}
#: The original rounds the width of gated units up to a multiple of this.
MULTIPLE = 256
#: Default base of transformers' class.
THETA = 1000.0
#: Keys of training, of kernels with the same results, of heads, or of GPT-2's configuration, which the original inherits.
UNUSED = (
    "add_pooling_layer",
    "attn_pdrop",
    "dense_seq_output",
    "embd_pdrop",
    "fused_bias_fc",
    "fused_dropout_add_ln",
    "moe_impl",
    "moe_resid_pdrop",
    "n_ctx",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "router_aux_loss_coef",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "use_flash_attn",
    "use_xentropy",
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Experts:
    """Experts of a model: their number, those for each token, and the period of the layers with experts."""

    count: int
    top: int
    every: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes that a configuration of either layout gives."""

    layer: GatedShape
    num_layers: int
    vocabulary: int
    positions: int
    types: int
    gated: bool
    original: bool
    experts: _Experts | None


def describe_nomic_bert(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: nomic_bert`.

    `rotary_scaling_factor` makes the original rescale its positions for batches longer than `max_trained_positions`: a vector
    then depends on its batch. Up to that length it changes nothing, so `max_positions` is at most that length.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    shape = _read_shape(checkpoint)
    hidden, epsilon = shape.layer.hidden, shape.layer.epsilon
    # The original's models with a head have the prefix `bert.`, which the class of transformers does not read.
    tensors = TensorReader(checkpoint, prefixes=("nomic_bert.", "bert.") if shape.original else ("nomic_bert.",))
    original = tensors.has("emb_ln.weight")
    token_type = None
    if shape.types:
        token_type = tensors.row("embeddings.token_type_embeddings.weight", (shape.types, hidden), 0)
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (shape.vocabulary, hidden)),
        positions=None,
        token_type=token_type,
        norm=tensors.norm("emb_ln" if original else "embeddings.LayerNorm", hidden, epsilon),
    )
    if shape.experts is not None and not original:
        raise CheckpointError(
            f"{checkpoint.folder} has experts under other names than the original's, which is not authored"
        )
    read = partial(_original_layer, shape=shape) if original else partial(read_gated_layer, shape=shape.layer)
    layers = tuple(read(tensors, index=index) for index in range(shape.num_layers))
    tensors.ignore("pooler.", "cls.", "classifier.")
    tensors.finish()
    return Architecture("nomic_bert", hidden, embedding, layers, max_positions=shape.positions)


def explain_scaling(checkpoint: Checkpoint) -> str:
    """Return why texts beyond the training length are refused, as the rest of a sentence; nothing without dynamic scaling."""
    factor = checkpoint.config.get("rotary_scaling_factor")
    if factor is None:
        return ""
    return (
        f" (rotary_scaling_factor is {factor!r}: beyond max_trained_positions, {_trained(Config(checkpoint))}, the original "
        "rescales its positions by the longest text of a batch, so that a vector depends on the texts beside it; without "
        "this key in a copy, longer texts have the positions as they are)"
    )


def _trained(config: Config) -> int:
    return config.integer("max_trained_positions", 2048)


def _epsilon(config: Config, file: Path, original: bool) -> float:
    """Return the epsilon of the norms, which has another name and default in the original's files."""
    names = ("layer_norm_epsilon", "layer_norm_eps") if original else ("layer_norm_eps", "layer_norm_epsilon")
    given = agreed(config, file, *names)
    name = next((name for name in names if given is not None and config.value(name) is not None), names[0])
    return config.number(name, 1e-5 if original else 1e-12)


def _read_shape(checkpoint: Checkpoint) -> _Shape:
    config, file = Config(checkpoint), checkpoint.folder / "config.json"
    original = config.value("n_embd") is not None
    hidden = _count(agreed(config, file, "n_embd", "hidden_size"), file, "n_embd or hidden_size")
    heads = _count(agreed(config, file, "n_head", "num_attention_heads"), file, "n_head or num_attention_heads")
    size = head_size(file, hidden, heads)
    config.must_be("head_dim", size, None)
    vocabulary = config.integer("vocab_size", 30528)
    multiple = config.integer("pad_vocab_size_multiple", 1)
    activation, gated = _activation(config, file)
    intermediate = _intermediate(config, file, hidden, gated)
    positions = config.integer("n_positions" if original else "max_position_embeddings", 2048)
    # Files with both names have the original's longest text in n_positions, and its training length in the other.
    config.ignore("max_position_embeddings")
    trained = _trained(config)
    if config.value("rotary_scaling_factor") is not None:
        positions = min(positions, trained)
    layer = GatedShape(
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        epsilon=_epsilon(config, file, original),
        activation=activation,
        rotary=_rotary(config, file, RopeContext(size, positions), original),
        attention_bias=switch(config, file, "qkv_proj_bias", original),
        up_bias=switch(config, file, "mlp_fc1_bias", original),
        down_bias=switch(config, file, "mlp_fc2_bias", original),
    )
    shape = _Shape(
        layer=layer,
        num_layers=_count(agreed(config, file, "n_layer", "num_hidden_layers"), file, "n_layer or num_hidden_layers"),
        vocabulary=-(-vocabulary // multiple) * multiple,
        positions=positions,
        types=config.count("type_vocab_size", 2),
        gated=gated,
        original=original,
        experts=_experts(config, activation, gated=gated),
    )
    for key in ("causal", "parallel_block", "parallel_block_tied_norm", "prenorm", "rotary_head_dim", "use_rms_norm"):
        config.must_be(key, False, None)
    if not original and isinstance(config.value("classifier_dropout"), int):
        raise config.refusal(
            "classifier_dropout is an integer, and transformers needs a float or null: correct it in a copy"
        )
    config.must_be("num_heads_kv", None, heads)
    config.must_be("norm_mlp", False, None)
    config.ignore(*UNUSED)
    config.finish()
    return shape


def _experts(config: Config, activation: str, *, gated: bool) -> _Experts | None:
    """Return the experts of a configuration, or None if it has none."""
    count = config.value("num_experts")
    every, top = config.integer("moe_every_n_layers", 1), config.integer("moe_top_k", 1)
    for key in ("moe_normalize_expert_weights", "expert_choice_router"):
        config.must_be(key, False, None)
    config.must_be("num_shared_experts", 0, None)
    config.must_be("ffn_div", 1, None)
    if not count:
        return None
    count = config.integer("num_experts")
    if gated or activation != "gelu":
        raise config.refusal(
            "num_experts is set, and activation_function is not gelu, which alone is authored with experts"
        )
    if every < 2:  # the original gives experts to layers whose number leaves the remainder 1
        raise config.refusal(f"num_experts is {count}, and moe_every_n_layers {every} gives no layer experts")
    if top > count:
        raise config.refusal(f"moe_top_k {top} is more than num_experts {count}")
    return _Experts(count, top, every)


def _activation(config: Config, file: Path) -> tuple[str, bool]:
    """Return the activation, and whether the unit has a gate."""
    old, new = config.value("activation_function"), config.value("hidden_act")
    if old is None:
        return check_activation("silu" if new is None else new, f"{file}: hidden_act"), True
    if old not in GATES:
        raise CheckpointError(f"{file}: activation_function is {old!r}; Fletcher authors {', '.join(GATES)}")
    gate = GATES[old]
    if new is not None and new != (gate or "gelu"):
        raise CheckpointError(f"{file} contradicts itself: activation_function is {old!r}, hidden_act is {new!r}")
    return gate or "gelu", gate is not None


def _intermediate(config: Config, file: Path, hidden: int, gated: bool) -> int:
    width = agreed(config, file, "n_inner", "intermediate_size", default=8 * hidden // 3 if gated else 4 * hidden)
    width = _count(width, file, "n_inner or intermediate_size")
    if config.value("n_embd") is None or not gated:
        return width
    return -(-width // MULTIPLE) * MULTIPLE


def _rotary(config: Config, file: Path, context: RopeContext, original: bool) -> Rotary:
    """Return the rotary positions; if a file has both sets of keys, they must agree."""
    config.must_be("rotary_emb_scale_base", None)
    parameters, size = config.value("rope_parameters"), context.width
    if not original and isinstance(parameters, Mapping) and parameters.get("rope_type") == "yarn":
        theta = positive(parameters.get("rope_theta", THETA), file, "rope_theta")
        return rotary_of(config, parameters, context, "rotary", theta)
    if not original:
        return read_rotary(parameters, file, "rotary", size, theta=THETA)
    width = config.number("rotary_emb_fraction", 0) * size
    if width != int(width) or int(width) % 2 or width > size:
        raise CheckpointError(
            f"{file}: rotary_emb_fraction gives {width:g} of {size} elements, which is not an even number"
        )
    rotary = Rotary(
        "rotary",
        frequencies(config.number("rotary_emb_base", 10_000), int(width)),
        interleaved=switch(config, file, "rotary_emb_interleaved", False),
    )
    if parameters is not None and read_rotary(parameters, file, "rotary", size, theta=THETA) != rotary:
        raise CheckpointError(
            f"{file} contradicts itself: rope_parameters is {parameters!r}, the rotary_emb keys differ"
        )
    return rotary


def _original_layer(tensors: TensorReader, *, shape: _Shape, index: int) -> Layer:
    layer, hidden, name = shape.layer, shape.layer.hidden, f"encoder.layers.{index}"
    widths = {"query": hidden, "key": hidden, "value": hidden}
    query, key, value = tensors.linears(f"{name}.attn.Wqkv", hidden, widths, bias=layer.attention_bias)
    output = tensors.linear(f"{name}.attn.out_proj", hidden, hidden, bias=layer.attention_bias)
    attention, norms = (query, key, value, output), ("norm1", "norm2")
    if shape.experts is not None and index % shape.experts.every == 1:
        attend, norm = rotary_attention(tensors, layer, name, attention, norms)
        return Layer(name, (attend, Block(_read_experts(tensors, layer, shape.experts, name), norm_sum=norm)))
    first, second = ("fc11", "fc12") if shape.gated else ("fc1", None)
    up = tensors.linear(f"{name}.mlp.{first}", hidden, layer.intermediate, bias=layer.up_bias)
    gate = second and tensors.linear(f"{name}.mlp.{second}", hidden, layer.intermediate, bias=layer.up_bias)
    down = tensors.linear(f"{name}.mlp.fc2", layer.intermediate, hidden, bias=layer.down_bias)
    return rotary_layer(tensors, layer, name, attention, (up, gate or None, down), norms)


def _read_experts(tensors: TensorReader, layer: GatedShape, experts: _Experts, name: str) -> Experts:
    """Read the experts of a layer: two tensors, each with one expert's matrix above the next one's."""
    shape = (layer.intermediate, layer.hidden)
    return Experts(
        router=tensors.linear(f"{name}.mlp.router.layer", layer.hidden, experts.count, bias=False),
        ups=tensors.products(f"{name}.mlp.experts.mlp.w1", experts.count, shape, transposed=True),
        downs=tensors.products(f"{name}.mlp.experts.mlp.w2", experts.count, shape, transposed=False),
        activation=layer.activation,
        top=experts.top,
        bias=tensors.take(f"{name}.mlp.experts.bias", (layer.hidden,)),
    )


def _count(value: object, file: Path, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{file}: {what} is {value!r}, where a positive integer was expected")
    return value
