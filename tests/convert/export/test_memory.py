"""Memory of a batch that the manifest predicts, compared with the memory that ONNX Runtime allocates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from fletcher.convert.architecture import Architecture, Embedding
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tensors import Weight
from fletcher.convert.export.export import export
from fletcher.convert.export.memory import memory_shape
from fletcher.convert.families import describe
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.memory_shape import MemoryShape

from ...runtime.peak import grown, needs_proc
from ..families.special_attention.test_deberta_v2 import V3 as DEBERTA
from ..targets.models import MODELS
from ..verify.parity import BERT_TOKENS, ROBERTA_TOKENS, SpecialTokens, randomize, save_checkpoint

MIB = 1 << 20

#: Sizes for which a batch takes much more memory than the rest of the process allocates.
WIDE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
    "max_position_embeddings": 520,
}

#: No bias; a bias per head, shared by all texts; a window, gates and pre-norms; gates and rotary positions; a bias of a text;
#: convolutions.
FAMILIES: dict[str, tuple[str, dict[str, Any], SpecialTokens]] = {
    "Bert": ("Model", {}, BERT_TOKENS),
    "MPNet": ("Model", {}, ROBERTA_TOKENS),
    "ModernBert": ("Model", {"num_hidden_layers": 4, "intermediate_size": 384, "pad_token_id": 0}, BERT_TOKENS),
    "NomicBert": ("Model", {}, BERT_TOKENS),
    "DebertaV2": ("Model", DEBERTA, BERT_TOKENS),
    "ConvBert": ("Model", {"embedding_size": 256, "pad_token_id": 0}, BERT_TOKENS),
}

#: Batches in which attention scores dominate, in which tokens dominate, and in which one long text pads short ones.
SHAPES: tuple[list[int], ...] = ([512] * 4, [16] * 256, [512, *[4] * 15])


def described(tmp_path: Path, name: str) -> Architecture:
    return describe(Checkpoint.open(MODELS[name]().save(tmp_path)))


def exported(
    tmp_path: Path, family: str, kind: str, changes: dict[str, Any], tokens: SpecialTokens, **options: Any
) -> Path:
    config = getattr(transformers, f"{family}Config")(**WIDE | changes)
    model = randomize(getattr(transformers, f"{family}{kind}")(config), std=0.02)
    save_checkpoint(model, tmp_path / "model", tokens)
    export(str(tmp_path / "model"), tmp_path / "artifact", max_tokens=512, **options)
    return tmp_path / "artifact"


def predicted(artifact: Path, lengths: list[int]) -> int:
    shape = Artifact.open(artifact).variant().memory
    assert shape is not None
    return shape.predict(np.array(lengths))


@needs_proc
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_takes_at_most_the_predicted_memory_and_not_much_less(tmp_path: Path, family: str) -> None:
    artifact = exported(tmp_path, family, *FAMILIES[family], pooling="mean")
    for lengths in SHAPES:
        allocated = grown(artifact / "cpu-fp32.onnx", lengths)
        assert allocated <= predicted(artifact, lengths) * 1.05 + 4 * MIB, lengths
        # DeBERTa's rectangles of short texts are cut off before the last one exists.
        assert predicted(artifact, lengths) <= (1.8 if family == "DebertaV2" else 1.6) * allocated, lengths


@needs_proc
def test_a_vocabularys_logits_are_counted_packed_and_in_the_rectangle(tmp_path: Path) -> None:
    artifact = exported(tmp_path, "Bert", "ForMaskedLM", {"vocab_size": 8000}, BERT_TOKENS, head="splade")
    for lengths in ([64] * 32, [256, *[4] * 15]):
        allocated = grown(artifact / "cpu-fp32.onnx", lengths)
        assert allocated <= predicted(artifact, lengths) * 1.05 + 4 * MIB, lengths
        assert predicted(artifact, lengths) <= 2 * allocated, lengths


@pytest.mark.parametrize(
    ("name", "bytes_a_place"),
    [
        ("bert", 0),
        ("nomic_bert", 0),
        # Two int32 of distances, and float32 for each head, or one for all heads if the bias is only a window.
        ("mpnet", 8 + 4 * 4),
        ("jina_bert", 8 + 4 * 8),
        ("modernbert", 8 + 4),
    ],
)
def test_a_bias_is_counted_once_whatever_the_number_of_texts_and_layers(
    tmp_path: Path, name: str, bytes_a_place: int
) -> None:
    shape = memory_shape(described(tmp_path, name), padded=False)
    assert shape is not None and shape.bias == bytes_a_place


def test_a_padded_graph_computes_everything_on_the_rectangle(tmp_path: Path) -> None:
    architecture = described(tmp_path, "bert")
    packed, padded = (memory_shape(architecture, padded=padded) for padded in (False, True))
    assert packed is not None
    assert padded == MemoryShape(0, packed.token + packed.cell, packed.square, packed.bias)
    equal = np.array([7, 7, 7])
    assert packed.predict(equal) == padded.predict(equal)


def test_a_graph_without_a_description_has_no_prediction() -> None:
    """The layers of a traced encoder are unknown."""
    word = Weight("", (60, 32), lambda: np.zeros((60, 32), np.float32))
    embedding = Embedding(word=word, positions=None, token_type=None, norm=None)
    traced = Architecture("rembert", hidden_size=32, embedding=embedding, layers=(), max_positions=24)
    assert memory_shape(traced, padded=False) is None
