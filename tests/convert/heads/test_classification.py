"""Rerankers compared with sentence-transformers' CrossEncoder, for every family with a supported classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder

from fletcher.convert.checkpoint.tokenizer_version import TokenizerLike
from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify_with
from fletcher.model_zoo.errors import CardError
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError, InputError
from fletcher.runtime.inputs import TokenIds
from fletcher.runtime.tasks.task import encode_ids

from ..families.special_attention.test_deberta_v2 import V3 as DEBERTA
from ..verify.parity import randomize
from .tiny import DOCUMENTS, QUERY, SIZES, VOCABULARY, convert, save, set_input_names

DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
MODERNBERT = SIZES | {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}

#: Family, arguments of its configuration, and whether its tokenizer gives token types.
FAMILIES: list[tuple[str, dict[str, Any], bool]] = [
    ("Bert", SIZES, True),
    ("Roberta", SIZES | {"type_vocab_size": 1}, False),
    ("XLMRoberta", SIZES | {"type_vocab_size": 1}, False),
    ("Camembert", SIZES | {"type_vocab_size": 1}, False),
    ("DistilBert", DISTILBERT, False),
    ("MPNet", SIZES, False),
    ("Albert", SIZES | {"embedding_size": 16}, True),
    ("Electra", SIZES | {"embedding_size": 16}, True),
    ("ModernBert", MODERNBERT, False),
    ("ModernBert", MODERNBERT | {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True}, False),
    ("NomicBert", SIZES, True),
    ("JinaEmbeddingsV3", SIZES | {"type_vocab_size": 1}, False),
    ("BigBird", SIZES | {"attention_type": "original_full"}, True),
    ("Longformer", SIZES | {"type_vocab_size": 1, "attention_window": 4}, False),
    ("Longformer", SIZES | {"type_vocab_size": 1, "attention_window": [4, 16]}, False),
    ("ConvBert", SIZES | {"embedding_size": 32, "hidden_act": "relu"}, True),
    ("DebertaV2", DEBERTA | SIZES, True),
    ("DebertaV2", DEBERTA | SIZES | {"type_vocab_size": 2, "pooler_hidden_act": "tanh"}, True),
]


def make(
    folder: Path, family: str = "Bert", sizes: dict[str, Any] = SIZES, *, labels: int = 1, types: bool = True
) -> Path:
    config = getattr(transformers, f"{family}Config")(**sizes, num_labels=labels)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    return save(randomize(model), folder, types=types)


def expected(folder: Path) -> Any:
    model = CrossEncoder(str(folder), device="cpu")
    return model.predict([(QUERY, text) for text in DOCUMENTS], batch_size=1).reshape(len(DOCUMENTS), -1)


@pytest.mark.parametrize(("family", "sizes", "types"), FAMILIES)
@pytest.mark.parametrize("labels", [1, 3])
def test_scores_are_those_of_cross_encoder(
    tmp_path: Path, family: str, sizes: dict[str, Any], types: bool, labels: int
) -> None:
    torch.set_num_threads(1)
    folder = make(tmp_path / "model", family, sizes, labels=labels, types=types)
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        assert (encoder.card.output, encoder.dimension) == ("scores", labels)
        output = encoder.score(QUERY, DOCUMENTS)
    reference = expected(folder)
    np.testing.assert_allclose(output.scores, reference, atol=1e-5)
    assert np.ptp(reference, axis=0).min() > 1e-3  # documents have different scores
    assert output.dropped.tolist()[4] > 0 and output.tokens.max() == 24


def test_token_types_are_an_input_and_change_the_scores(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        assert "token_type_ids" in [info.name for info in encoder.variant.inputs]
        encodings = encoder.tokenizer.encode_pairs([QUERY], DOCUMENTS[:1])
        typed = encoder.compute(encodings)
        untyped = encoder.compute(encode_ids(encoder.tokenizer, TokenIds([encodings.ids.tolist()]), "reranker"))
    assert abs(typed - untyped).max() > 1e-3


def test_a_tokenizer_without_token_types_gives_none(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    set_input_names(folder, ["input_ids", "attention_mask"])
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        assert "token_type_ids" not in [info.name for info in encoder.variant.inputs]
        np.testing.assert_allclose(encoder.score(QUERY, DOCUMENTS).scores, expected(folder), atol=1e-5)


def test_a_tokenizer_with_more_token_types_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", sizes=SIZES | {"type_vocab_size": 1})
    set_input_names(folder, ["input_ids", "token_type_ids", "attention_mask"])
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "BertTokenizer"}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: .* the token type 1, and .* has one row"):
        export(str(folder), tmp_path / "artifact")
    with pytest.raises(IndexError):  # the reference fails in this way
        CrossEncoder(str(folder), device="cpu").model(
            input_ids=torch.tensor([[0, 5, 2]]), token_type_ids=torch.tensor([[0, 1, 1]])
        )


@pytest.mark.parametrize(("like", "typed"), [("4", True), ("5", False)])
def test_token_types_follow_the_version_of_transformers(tmp_path: Path, like: TokenizerLike, typed: bool) -> None:
    """PreTrainedTokenizerFast gives token types in transformers 4, but not in 5."""
    folder = make(tmp_path / "model")
    set_input_names(folder, None)
    file = folder / "tokenizer_config.json"  # transformers 5 writes TokenizersBackend, which 4 does not have
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    exported = export(str(folder), tmp_path / "artifact", tokenizer_like=like)
    set_input_names(folder, ["input_ids", *["token_type_ids"] * typed, "attention_mask"])  # in both versions
    with Encoder.load(exported.path, workers=1) as encoder:
        assert ("token_type_ids" in [info.name for info in encoder.variant.inputs]) is typed
        np.testing.assert_allclose(encoder.score(QUERY, DOCUMENTS).scores, expected(folder), atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity"),
        ("sentence_transformers", {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.1"}),
    ],
)
def test_the_configured_activation_is_used(tmp_path: Path, key: str, value: object) -> None:
    folder = make(tmp_path / "model")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        assert encoder.card.activation == "identity"
        scores = encoder.score(QUERY, DOCUMENTS).scores
    np.testing.assert_allclose(scores, expected(folder), atol=1e-5)


def test_a_model_saved_by_cross_encoder_is_converted(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", labels=3)
    model = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Sigmoid())
    model.save_pretrained(str(tmp_path / "saved"))
    with Encoder.load(convert(tmp_path / "saved").path, workers=1) as encoder:
        assert encoder.card.activation == "sigmoid"
        np.testing.assert_allclose(encoder.score(QUERY, DOCUMENTS).scores, expected(tmp_path / "saved"), atol=1e-5)


def test_an_unknown_activation_a_wrong_shape_and_other_targets_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"sbert_ce_default_activation_function": "mine.Squash"}))
    with pytest.raises(CardError, match=r"mine\.Squash"):
        convert(folder)
    labels = {"id2label": {"0": "no", "1": "yes"}}
    file.write_text(json.dumps(config | labels))
    with pytest.raises(CheckpointError, match=r"classifier\.weight has shape \(1, 32\)"):
        convert(folder)


@pytest.mark.parametrize("name", ["classifier.again.weight", "bert.pooler.scale"])
def test_an_unknown_tensor_of_the_head_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"does not use: {name}"):
        convert(folder)


def test_a_classifier_is_converted_to_an_embedding_model_on_request_only(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        with pytest.raises(InputError, match="use `score` instead of `embed`"):
            encoder.embed(["w1"])
        with pytest.raises(InputError, match="use `score` instead of `embed`"):
            next(encoder.stream([["w1"]]))
    with pytest.raises(CardError, match="--pooling"):
        convert(folder, "embedding")


def test_verification_passes_and_detects_a_wrong_activation(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    artifact = convert(folder).path
    with Encoder.load(artifact, workers=1) as encoder:
        card = encoder.card
    reference = load_witness(folder, card)
    report = verify_with(artifact, reference, name="tiny")
    assert report.verdict == "passed" and report.tokenizer.truncated > 0
    reference.model.activation_fn = torch.nn.Identity()
    report = verify_with(artifact, reference, name="tiny")
    assert report.verdict == "failed" and "max abs difference" in report.variants[0].reasons[-1]
