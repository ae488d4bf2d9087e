"""Longformer: RoBERTa whose attention is a window around each token.

sentence-transformers gives no token of an embedder global attention, so that the layers' second projections are not used.
transformers' classifiers give it to the first token.

Source: transformers' modeling_longformer.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...architecture import Architecture, Attention, Block, GlobalFirst, Layer, Window
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorReader
from ..post_norm import BERT_NAMES, Sizes, read_embedding, read_layer, read_sizes
from ..settings.reader import Config

__all__ = ["add_global_first", "describe_longformer"]

#: Keys that no class of transformers reads, and one of an export.
UNUSED = ("attention_mode", "ignore_attention_mask", "onnx_export")


def describe_longformer(checkpoint: Checkpoint) -> Architecture:
    """Describe a checkpoint with `model_type: longformer`.

    Raises:
        CheckpointError: an unknown key or value, a missing, surplus or wrongly shaped tensor.
    """
    config = Config(checkpoint)
    sizes = read_sizes(config)
    types, padding_id = config.integer("type_vocab_size", 2), config.count("pad_token_id", 1)
    windows = _windows(config, sizes.layers)
    config.ignore(*UNUSED)
    config.finish()
    if padding_id >= min(sizes.vocabulary, sizes.positions - 1):
        raise config.refusal(f"pad_token_id is {padding_id}: positions are counted from there, and none is left")

    tensors = TensorReader(checkpoint, prefixes=("longformer.",))
    embedding = read_embedding(tensors, sizes, types=types, padding_id=padding_id)
    layers = tuple(_read_layer(tensors, sizes, f"encoder.layer.{index}", size) for index, size in enumerate(windows))
    # A buffer of older versions; the pooler and the heads, which no sentence embedding uses.
    tensors.ignore("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs.")
    tensors.finish()
    longest = sizes.positions - padding_id - 1
    return Architecture("longformer", sizes.hidden, embedding, layers, max_positions=longest)


def add_global_first(checkpoint: Checkpoint, architecture: Architecture) -> Architecture:
    """Return the encoder with global attention of the first token, as `LongformerForSequenceClassification` has it.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    tensors = TensorReader(checkpoint, prefixes=("longformer.",))
    hidden = architecture.hidden_size
    layers = []
    for layer in architecture.layers:
        attend, widen = layer.blocks
        assert isinstance(attend.body, Attention)
        query, key, value = (
            tensors.linear(f"{layer.name}.attention.self.{part}_global", hidden, hidden)
            for part in ("query", "key", "value")
        )
        attention = replace(attend.body, first=GlobalFirst(query, key, value))
        layers.append(replace(layer, blocks=(replace(attend, body=attention), widen)))
    return replace(architecture, layers=tuple(layers))


def _windows(config: Config, layers: int) -> tuple[int, ...]:
    """Return the tokens on one side of each layer's window."""
    value = config.value("attention_window", 512)
    sizes = [value] * layers if isinstance(value, int) else value
    if (
        not isinstance(sizes, list)
        or len(sizes) != layers
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 2 or size % 2 for size in sizes)
    ):
        raise config.refusal(f"attention_window is {value!r}, where an even number or {layers} of them were expected")
    if any(max(sizes) % size for size in sizes):
        raise config.refusal(
            f"attention_window is {value!r}, and transformers fails where one does not divide the largest"
        )
    return tuple(size // 2 for size in sizes)


def _read_layer(tensors: TensorReader, sizes: Sizes, name: str, window: int) -> Layer:
    layer = read_layer(tensors, sizes, BERT_NAMES, name)
    tensors.ignore(*(f"{name}.attention.self.{part}_global." for part in ("query", "key", "value")))
    attend, widen = layer.blocks
    assert isinstance(attend.body, Attention)
    attention = replace(attend.body, mask=Window(window, window), blockwise=True)
    return replace(layer, blocks=(Block(attention, norm_sum=attend.norm_sum), widen))
