"""ColBERT compared with sentence-transformers' MultiVectorEncoder: checkpoints of that class, of PyLate and of Stanford."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify_with
from fletcher.model_zoo.errors import CardError
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError, InputError

from ..verify.parity import randomize
from .tiny import DOCUMENTS, QUERY, SIZES, convert, save

QUERIES = (QUERY, "", "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16")
DIMENSION = 12


#: Settings of families that have more than BERT's.
SETTINGS: dict[str, dict[str, Any]] = {
    "Lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}
}


def backbone(folder: Path, family: str = "Bert") -> Path:
    config = getattr(transformers, f"{family}Config")(**SIZES | SETTINGS.get(family, {}))
    return save(randomize(getattr(transformers, f"{family}Model")(config)), folder, types=family == "Bert")


def make(
    folder: Path, *, family: str = "Bert", expansion: Any = None, skipped: list[str] | None = None, **lengths: int
) -> Path:
    """Write a checkpoint as MultiVectorEncoder saves it."""
    source = backbone(folder.with_name(f"{folder.name}.backbone"), family)
    torch.manual_seed(5)
    modules: list[torch.nn.Module] = [
        Transformer(str(source), query_expansion=expansion, **lengths),
        Dense(32, DIMENSION, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=skipped),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, device="cpu", prompts={"query": "w30 ", "document": "w31 "}).save_pretrained(
        str(folder)
    )
    return folder


def check(folder: Path) -> Encoder:
    """Compare queries and documents with MultiVectorEncoder's, one text at a time, and return the encoder, closed."""
    torch.set_num_threads(1)
    model = MultiVectorEncoder(str(folder), device="cpu")
    with Encoder.load(convert(folder).path, workers=1) as encoder:
        assert encoder.card.output == "token_vectors"
        for texts, encode, kind in (
            (QUERIES, model.encode_query, "query"),
            (DOCUMENTS, model.encode_document, "document"),
            (DOCUMENTS, model.encode_document, None),
        ):
            output = encoder.embed_tokens(texts, input_type=kind)
            expected = [encode([text])[0].numpy() for text in texts]
            assert np.diff(output.offsets).tolist() == [len(rows) for rows in expected]
            np.testing.assert_allclose(output.vectors, np.concatenate(expected), atol=1e-5)
        assert len(encoder.embed_tokens([])) == 0
    return encoder


@pytest.mark.parametrize(
    "expansion",
    [
        None,
        {"strategy": "fixed", "length": 9},
        {"strategy": "fixed", "length": 9, "attend": True},
        {"strategy": "min", "length": 9},
        {"strategy": "min", "length": 11, "attend": True, "token": "[unused0]"},
    ],
)
def test_vectors_are_those_of_multi_vector_encoder(tmp_path: Path, expansion: Any) -> None:
    encoder = check(make(tmp_path / "model", expansion=expansion, skipped=list(".,!?-"), document_length=15))
    assert encoder.dimension == DIMENSION
    late_interaction = encoder.card.late_interaction
    assert late_interaction is not None and late_interaction.document_tokens == 15


def test_lengths_without_expansion_are_read(tmp_path: Path) -> None:
    encoder = check(make(tmp_path / "model", query_length=7))
    late_interaction = encoder.card.late_interaction
    assert late_interaction is not None and (late_interaction.query_tokens, late_interaction.document_tokens) == (7, 24)


def test_attention_includes_expansion_tokens_only_if_the_model_requires_it(tmp_path: Path) -> None:
    folders = [
        make(tmp_path / name, expansion={"strategy": "fixed", "length": 9, "attend": attend})
        for name, attend in (("seen", True), ("unseen", False))
    ]
    vectors = []
    for folder in folders:
        with Encoder.load(convert(folder).path, workers=1) as encoder:
            vectors.append(encoder.embed_tokens(["w1 w2"], input_type="query").vectors)
    assert vectors[0].shape == (9, DIMENSION)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def pylate(folder: Path, **settings: object) -> Path:
    """Write a checkpoint as PyLate up to version 3 saves it."""
    backbone(folder)
    torch.manual_seed(5)
    dense = folder / "1_Dense"
    dense.mkdir()
    config: dict[str, object] = {"in_features": 32, "out_features": DIMENSION, "bias": False, "use_residual": False}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    (dense / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.randn(DIMENSION, 32)}, dense / "model.safetensors")
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    listing = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 23, "do_lower_case": False}))
    content = {"model_type": "ColBERT", "query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 10}
    content |= {"document_length": 20, "similarity_fn_name": "MaxSim", "prompts": {}} | settings
    (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_query_expansion": False, "skiplist_words": ["w4"]},
        {"attend_to_expansion_tokens": True, "skiplist_words": []},
        {"prompts": {"query": "w7: ", "document": "[unused1]w8 "}, "skiplist_words": []},
    ],
)
def test_checkpoints_of_pylate(tmp_path: Path, settings: dict[str, Any]) -> None:
    encoder = check(pylate(tmp_path / "model", **settings))
    late_interaction = encoder.card.late_interaction
    assert late_interaction is not None and late_interaction.skipped == tuple(
        settings.get("skiplist_words", string.punctuation)
    )


def stanford(folder: Path, **settings: object) -> Path:
    """Write a checkpoint of Stanford's ColBERT, which stores the projection with the encoder's tensors."""
    backbone(folder)
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(5)
    tensors["linear.weight"] = torch.randn(DIMENSION, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["HF_ColBERT"]}))
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 10, "doc_maxlen": 20}
    (folder / "artifact.metadata").write_text(json.dumps(metadata | {"dim": DIMENSION} | settings))
    return folder


@pytest.mark.parametrize("settings", [{}, {"attend_to_mask_tokens": True, "mask_punctuation": False}])
def test_checkpoints_of_stanford(tmp_path: Path, settings: dict[str, Any]) -> None:
    check(stanford(tmp_path / "model", **settings))


def test_settings_that_are_not_reproduced_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    file = folder / "2_MultiVectorMask" / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"keep_only_token_ids": [7]}))
    with pytest.raises(CardError, match="keep_only_token_ids"):
        convert(folder)
    file.write_text(json.dumps(content))
    listing = json.loads((folder / "modules.json").read_text())
    pooling = {"idx": 9, "name": "9", "path": "9_Pooling", "type": "x.HierarchicalTokenPooling"}
    (folder / "modules.json").write_text(json.dumps([*listing, pooling]))
    with pytest.raises(CheckpointError, match="HierarchicalTokenPooling"):
        convert(folder)
    layer_norm = {"idx": 9, "name": "9", "path": "9_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}
    for modules in (
        [*listing, layer_norm],
        [*listing, listing[0] | {"name": "9"}],
        [listing[3], *listing[1:3], listing[0]],
    ):
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(CheckpointError, match=r"the modules in modules\.json are "):
            convert(folder)
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "3_Normalize" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="module_input_name is 'sentence_embedding'"):
        convert(folder)
    with pytest.raises(CheckpointError, match=r"linear\.weight has shape \(12, 32\)"):
        convert(stanford(tmp_path / "stanford", dim=DIMENSION + 1))


def test_other_methods_name_the_right_one(tmp_path: Path) -> None:
    with (
        Encoder.load(convert(make(tmp_path / "model")).path, workers=1) as encoder,
        pytest.raises(InputError, match="gives token vectors, not sparse: use `embed_tokens`"),
    ):
        encoder.embed_sparse(["w1"])


def test_verification_passes_and_detects_attention_to_expansion_tokens(tmp_path: Path) -> None:
    artifact = convert(folder := make(tmp_path / "model", expansion={"strategy": "fixed", "length": 9})).path
    with Encoder.load(artifact, workers=1) as encoder:
        card = encoder.card
    reference = load_witness(folder, card)
    assert verify_with(artifact, reference, name="tiny").verdict == "passed"
    reference.model[0].query_expansion = {"strategy": "fixed", "length": 9, "attend": True}
    report = verify_with(artifact, reference, name="tiny")
    assert report.verdict == "failed" and report.tokenizer.verdict == "passed"
    assert all(text.input_type == "query" for text in report.variants[0].texts if text.cosine < 0.999)
