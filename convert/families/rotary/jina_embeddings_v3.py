"""jina-embeddings-v3: XLM-RoBERTa with rotary positions instead of a table; post-norm, units without a gate.

There are two sets of names of one architecture: the original repository's (`mixer.Wqkv`) and transformers' (`q_proj`). Task
adapters of PEFT are merged by `checkpoint/adapters.py`, the original's, which are tensors of the checkpoint itself, by
`checkpoint/task_adapters.py`; for an artifact of all tasks they stay beside the base tensors.

Source: transformers' modeling_jina_embeddings_v3.py, and its `conversion_mapping.py` for the original's names.
"""

from __future__ import annotations

from ...architecture import Architecture, Embedding, Layer
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.task_adapters import TASK_KEY
from ...checkpoint.tensors import TensorReader
from ...graph.activations import check_activation
from ..decoders.rope import RopeContext, read_rope
from ..settings.reader import Config
from ..settings.values import head_size
from .adapter_reader import AdapterReader
from .gated_layer import GatedShape, rotary_layer

__all__ = ["describe_jina_embeddings_v3"]

#: Default base of the rotary positions.
THETA = 20_000.0

NORMS = ("post_attention_layernorm", "post_mlp_layernorm")


def describe_jina_embeddings_v3(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: jina_embeddings_v3`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config, file = Config(checkpoint), checkpoint.folder / "config.json"
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    num_layers, vocabulary = config.integer("num_hidden_layers"), config.integer("vocab_size")
    positions, types = config.integer("max_position_embeddings"), config.integer("type_vocab_size", 1)
    size = head_size(file, hidden, heads)
    config.must_be("head_dim", size, None)
    shape = GatedShape(
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        heads=heads,
        epsilon=config.number("layer_norm_eps", 1e-5),
        activation=check_activation(config.value("hidden_act", "gelu"), f"{file}: hidden_act"),
        rotary=read_rope(config, RopeContext(size, positions), theta=THETA),
        attention_bias=True,
        up_bias=True,
        down_bias=True,
    )
    chosen = config.value(TASK_KEY)
    config.finish()

    tensors = TensorReader(checkpoint, prefixes=("roberta.",))
    original = tensors.has("emb_ln.weight")
    embedding = Embedding(
        word=tensors.take("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        positions=None,
        token_type=tensors.row("embeddings.token_type_embeddings.weight", (types, hidden), 0),
        norm=tensors.norm("emb_ln" if original else "embeddings.LayerNorm", hidden, shape.epsilon),
    )
    if chosen is not None and chosen["index"] is None:
        adapters = AdapterReader(tensors, chosen["count"], chosen["rank"], chosen["scale"])
        embedding = adapters.embedding(embedding, types)
        layers = tuple(_adapted_layer(adapters, shape, index) for index in range(num_layers))
    else:
        read = _original_layer if original else _read_layer
        layers = tuple(read(tensors, shape, index) for index in range(num_layers))
    tensors.ignore("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs.")
    tensors.finish()
    return Architecture("jina_embeddings_v3", hidden, embedding, layers, max_positions=positions)


def _read_layer(tensors: TensorReader, shape: GatedShape, index: int) -> Layer:
    hidden, name = shape.hidden, f"layers.{index}"
    query, key, value, output = (tensors.linear(f"{name}.self_attn.{part}_proj", hidden, hidden) for part in "qkvo")
    up = tensors.linear(f"{name}.mlp.fc1", hidden, shape.intermediate)
    down = tensors.linear(f"{name}.mlp.fc2", shape.intermediate, hidden)
    return rotary_layer(tensors, shape, name, (query, key, value, output), (up, None, down), NORMS)


def _original_layer(tensors: TensorReader, shape: GatedShape, index: int) -> Layer:
    hidden, name = shape.hidden, f"encoder.layers.{index}"
    query, key, value = tensors.linears(f"{name}.mixer.Wqkv", hidden, {"query": hidden, "key": hidden, "value": hidden})
    output = tensors.linear(f"{name}.mixer.out_proj", hidden, hidden)
    up = tensors.linear(f"{name}.mlp.fc1", hidden, shape.intermediate)
    down = tensors.linear(f"{name}.mlp.fc2", shape.intermediate, hidden)
    return rotary_layer(tensors, shape, name, (query, key, value, output), (up, None, down), ("norm1", "norm2"))


def _adapted_layer(adapters: AdapterReader, shape: GatedShape, index: int) -> Layer:
    """Read a layer of the original's names whose products have adapters for several tasks."""
    hidden, name, tensors = shape.hidden, f"encoder.layers.{index}", adapters.tensors
    parts = {"query": hidden, "key": hidden, "value": hidden}
    query, key, value = adapters.linears(f"{name}.mixer.Wqkv", hidden, parts)
    output = adapters.linear(f"{name}.mixer.out_proj", hidden, hidden)
    up = adapters.linear(f"{name}.mlp.fc1", hidden, shape.intermediate)
    down = adapters.linear(f"{name}.mlp.fc2", shape.intermediate, hidden)
    return rotary_layer(tensors, shape, name, (query, key, value, output), (up, None, down), ("norm1", "norm2"))
