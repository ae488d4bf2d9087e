"""Rerankers, SPLADE and ColBERT on the targets for devices: parity on the CPU provider, operators, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fletcher.convert.architecture import Architecture
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.heads import describe_model
from fletcher.convert.layers.verify import compare_variants, verify_layers
from fletcher.convert.targets.emit import PRECISIONS, choose, emit
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError

from ..heads import test_colbert, test_splade
from ..heads.tiny import SIZES, VOCABULARY, convert, save
from ..verify.parity import randomize
from .head_models import FAMILIES, FILLED, HeadModel, classifier, encode, load_head
from .sessions import load_target, models_of
from .support.device_operators import check_operators

Load = Callable[[str, str], HeadModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Make a tiny model with a head, once."""
    torch.set_num_threads(1)
    return functools.cache(lambda head, family: load_head(tmp_path_factory.mktemp(head) / "model", head, family))


COMBINATIONS = [
    *(("scores", family, target) for family in FAMILIES for target in ("cuda", "tensorrt", "coreml")),
    *(("scores", "Longformer", target) for target in ("cuda", "tensorrt", "coreml")),
    *(("sparse", family, target) for family in FAMILIES for target in ("cuda", "tensorrt")),
    *(("token_vectors", "Bert", target) for target in ("cuda", "tensorrt", "coreml")),
    # MPNet adds a bias to the scores; on cuda, this bias also masks the tokens that no token attends to.
    *(("filled_queries", family, target) for family in ("Bert", "MPNet") for target in ("cuda", "tensorrt", "coreml")),
    # Causal attention, and convolutions without those tokens.
    *(("filled_queries", "Lfm2", target) for target in ("cuda", "tensorrt", "coreml")),
]


@pytest.mark.parametrize(("head", "family", "target"), COMBINATIONS)
def test_results_are_those_of_transformers(load: Load, tmp_path: Path, head: str, family: str, target: str) -> None:
    model = load(head, family)
    output = load_target(model.architecture, model.card, tmp_path, target, "fp32").run(encode(model.rows))
    expected = model.expected()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "Albert", "Electra"])
@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
def test_token_types_of_pairs_change_the_scores(load: Load, tmp_path: Path, family: str, target: str) -> None:
    """Without token types the scores differ, so that the comparison above detects missing types."""
    model = load("scores", family)
    encodings = encode(model.rows)
    session = load_target(model.architecture, model.card, tmp_path, target, "fp32")
    untyped = Encodings(encodings.ids, encodings.offsets, encodings.dropped)
    assert np.abs(session.run(encodings) - session.run(untyped)).max() > 1e-3


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
def test_masking_of_expansion_tokens_changes_the_vectors(load: Load, tmp_path: Path, family: str, target: str) -> None:
    """Attention to expansion tokens would change the vectors of expanded queries, and only those."""
    model = load("filled_queries", family)
    encodings = encode(model.rows)
    (tmp_path / "seen").mkdir()
    output = load_target(model.architecture, model.card, tmp_path, target, "fp32").run(encodings)
    unmasked = dataclasses.replace(model.architecture, unseen_tail=None)
    other = load_target(unmasked, model.card, tmp_path / "seen", target, "fp32").run(encodings)
    differences = [np.abs(part).max() for part in np.split(output - other, encodings.offsets[1:-1])]
    for row, difference in zip(model.rows, differences, strict=True):
        assert difference > 1e-3 if row.attended < len(row.ids) else difference < 1e-6


@pytest.mark.parametrize(("head", "family", "target"), COMBINATIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_operators_are_those_of_the_targets_list(
    load: Load, tmp_path: Path, head: str, family: str, target: str, precision: Any
) -> None:
    if precision not in PRECISIONS[target]:  # type: ignore[index]
        pytest.skip("CoreML has no bfloat16")
    head_model = load(head, family)
    for model in models_of(head_model.architecture, head_model.card, tmp_path, target, precision)[1]:
        check_operators(model, target)


@pytest.mark.parametrize(("head", "family", "target"), [case for case in COMBINATIONS if case[1] == "Bert"])
def test_half_precision_ranks_alike(load: Load, tmp_path: Path, head: str, family: str, target: str) -> None:
    model = load(head, family)
    output = load_target(model.architecture, model.card, tmp_path, target, "fp16").run(encode(model.rows))
    for ours, theirs in zip(output, model.expected(), strict=True):
        cosine = float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))
        assert cosine >= 0.9999


def _refuse(architecture: Architecture, card: ModelCard, reason: str) -> None:
    with pytest.raises(InputError, match=f"target coreml.*{reason}.*export it for"):
        emit("coreml", architecture, card.dimension, card.max_tokens, choose("coreml", "fp32"))


def test_a_vocabulary_is_refused_by_coreml_with_the_reason(load: Load) -> None:
    model = load("sparse", "Bert")
    _refuse(model.architecture, model.card, rf"no Log.* {VOCABULARY} tokens")


def test_three_token_types_are_refused_by_coreml_with_the_reason(tmp_path: Path) -> None:
    sizes: dict[str, Any] = SIZES | {"type_vocab_size": 3, "num_labels": 2}
    source = save(
        randomize(transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))), tmp_path / "m"
    )
    card = Artifact.open(convert(source).path).manifest.card
    _refuse(describe_model(Checkpoint.open(source), card), card, "not the 3 of this model")


@pytest.mark.filterwarnings(
    "ignore:the graph was compared, and the served session"
)  # this machine has no session of a device
@pytest.mark.parametrize(
    ("head", "option"), [("scores", "classification"), ("sparse", "splade"), ("token_vectors", "colbert")]
)
def test_an_artifact_of_several_targets_is_compared_layer_by_layer(tmp_path: Path, head: str, option: Any) -> None:
    folder = tmp_path / "model"
    artifact_path = {
        "scores": lambda: classifier(folder, "Bert"),
        "sparse": lambda: test_splade.make(folder),
        "token_vectors": lambda: test_colbert.make(folder, expansion=FILLED),
    }[head]()
    targets = ("cpu", "tensorrt", *["coreml"] * (head != "sparse"))
    exported = export(
        str(artifact_path),
        tmp_path / "artifact",
        targets=targets,
        precisions=("fp32", "fp16"),
        head=option,
    )
    names = [variant.name for variant in Artifact.open(exported.path).manifest.variants]
    assert "tensorrt-fp16" in names
    for name in names:
        report = verify_layers(exported.path, variant=name)
        assert report.first is None, f"{name}: {report.summary}"
        last = {"scores": "modules.2/dense", "sparse": "modules.4", "token_vectors": "modules.1"}[head]
        assert last in {point.key for point in report.points}
        if name != "cpu-fp32":
            report = compare_variants(exported.path, against="cpu-fp32", on=name)
            assert report.first is None, f"{name}: {report.summary}"
            assert last in {point.key for point in report.points}
            if head == "token_vectors":
                assert report.batches[-1] in ((6, 11), (11,))  # all expanded queries, or the second one
