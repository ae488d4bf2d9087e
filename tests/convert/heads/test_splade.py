"""SPLADE compared with sentence-transformers' SparseEncoder, for every family with a supported masked-LM head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling

from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify_with
from fletcher.model_zoo.errors import CardError
from fletcher.runtime import Encoder, SparseEmbeddings
from fletcher.runtime.errors import CheckpointError, InputError

from ..verify.parity import randomize
from .test_classification import DISTILBERT, MODERNBERT
from .tiny import DOCUMENTS, SIZES, VOCABULARY, convert, save

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("Bert", SIZES),
    ("Roberta", SIZES | {"type_vocab_size": 1}),
    ("XLMRoberta", SIZES | {"type_vocab_size": 1}),
    ("Camembert", SIZES | {"type_vocab_size": 1}),
    ("DistilBert", DISTILBERT),
    ("MPNet", SIZES),
    ("Albert", SIZES | {"embedding_size": 16}),
    ("Electra", SIZES | {"embedding_size": 16}),
    ("ModernBert", MODERNBERT),
    ("ModernBert", MODERNBERT | {"classifier_bias": True, "norm_bias": True, "decoder_bias": False}),
]


def make(folder: Path, family: str = "Bert", sizes: dict[str, Any] = SIZES) -> Path:
    config = getattr(transformers, f"{family}Config")(**sizes)
    return save(randomize(getattr(transformers, f"{family}ForMaskedLM")(config)), folder)


def dense(embeddings: SparseEmbeddings) -> NDArray[np.float32]:
    rows = np.zeros((len(embeddings), VOCABULARY), np.float32)
    for index, (start, end) in enumerate(zip(embeddings.offsets[:-1], embeddings.offsets[1:], strict=True)):
        assert (np.diff(embeddings.indices[start:end]) > 0).all()
        rows[index, embeddings.indices[start:end]] = embeddings.values[start:end]
    return rows


def expected(folder: Path) -> NDArray[np.float32]:
    model = SparseEncoder(str(folder), device="cpu")
    rows: NDArray[np.float32] = model.encode(list(DOCUMENTS), batch_size=1, convert_to_sparse_tensor=False).numpy()
    return rows


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_weights_are_those_of_sparse_encoder(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    folder = make(tmp_path / "model", family, sizes)
    with Encoder.load(convert(folder, "splade").path, workers=1) as encoder:
        assert (encoder.card.output, encoder.dimension) == ("sparse", VOCABULARY)
        embeddings = encoder.embed_sparse(DOCUMENTS)
        assert len(encoder.embed_sparse([])) == 0
    reference = expected(folder)
    np.testing.assert_allclose(dense(embeddings), reference, atol=1e-5)
    assert (reference == 0).any() and (reference > 0.1).any()
    assert (embeddings.values > 0).all() and embeddings.dropped[4] > 0


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_a_model_saved_by_sparse_encoder_is_converted(tmp_path: Path, activation: Any) -> None:
    folder = make(tmp_path / "model")
    model = SparseEncoder(str(folder), device="cpu")
    pooling = model[1]
    assert isinstance(pooling, SpladePooling)
    pooling.activation_function = activation
    model.prompts = {"query": "w7 ", "document": ""}
    model.save_pretrained(str(tmp_path / "saved"))
    with Encoder.load(convert(tmp_path / "saved").path, workers=1) as encoder:
        np.testing.assert_allclose(dense(encoder.embed_sparse(DOCUMENTS)), expected(tmp_path / "saved"), atol=1e-5)
        query = model.encode_query(["w1 w2"], convert_to_sparse_tensor=False).numpy()
        np.testing.assert_allclose(dense(encoder.embed_sparse(["w1 w2"], input_type="query")), query, atol=1e-5)


def test_a_separate_decoder_is_used_if_the_configuration_requires_it(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES | {"tie_word_embeddings": False})
    model = randomize(transformers.BertForMaskedLM(config))
    folder = save(model, tmp_path / "model")
    with pytest.raises(
        CheckpointError, match="should be one tensor, and differ"
    ):  # each version reads one of the two keys
        convert(folder, "splade")
    model.cls.predictions.bias.data.copy_(model.cls.predictions.decoder.bias.data)
    save(model, folder)
    assert "cls.predictions.decoder.weight" in load_file(folder / "model.safetensors")
    with Encoder.load(convert(folder, "splade").path, workers=1) as encoder:
        np.testing.assert_allclose(dense(encoder.embed_sparse(DOCUMENTS)), expected(folder), atol=1e-5)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"config\.json ties cls\.predictions\.decoder\.weight"):
        convert(folder, "splade")


def test_a_tied_decoder_is_stored_once(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    plain = sum(tensor.size for tensor in load_file(folder / "model.safetensors").values())
    artifact = convert(folder, "splade").path
    tensors = load_file(artifact / "weights.fp32.safetensors")
    # All parameters but one row of the token types; this model has no pooler.
    assert sum(tensor.size for tensor in tensors.values()) == plain - 32


def test_a_masked_lm_checkpoint_needs_an_explicit_task(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(CardError, match="--head splade, or --head embedding"):
        convert(folder)
    with Encoder.load(convert(folder, "splade").path, workers=1) as encoder:
        with pytest.raises(InputError, match="use `embed_sparse` instead of `embed`"):
            encoder.embed(["w1"])
        with pytest.raises(InputError, match="use `embed_sparse` instead of `score`"):
            encoder.score("w1", ["w2"])


def test_heads_that_are_not_authored_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    model = SparseEncoder(str(folder), device="cpu")
    pooling: Any = model[1]
    pooling.pooling_strategy = "sum"
    model.save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(CheckpointError, match="pooling_strategy is 'sum'"):
        convert(tmp_path / "saved")
    with pytest.raises(CardError, match=r"--head classification contradicts .*SpladePooling"):
        convert(tmp_path / "saved", "classification")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"cls.predictions.scale": np.ones(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not use: cls\.predictions\.scale"):
        convert(folder, "splade")
    del tensors["cls.predictions.transform.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the tensor cls\.predictions\.transform\.dense\.weight"):
        convert(folder, "splade")


def test_verification_passes_and_detects_a_missing_bias(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    artifact = convert(folder, "splade").path
    with Encoder.load(artifact, workers=1) as encoder:
        card = encoder.card
    reference = load_witness(folder, card)
    assert verify_with(artifact, reference, name="tiny").verdict == "passed"
    reference.transformer.cls.predictions.bias.data.zero_()
    assert verify_with(artifact, reference, name="tiny").verdict == "failed"
