"""Rerankers, SPLADE and ColBERT on the targets for devices: parity on the CPU provider, operators, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions

from fletcher.convert.checkpoint import Checkpoint
from fletcher.convert.description import Architecture
from fletcher.convert.export import export
from fletcher.convert.heads import describe_model
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.reference_heads import HeadReference, Row
from fletcher.convert.targets import coreml, cuda, tensorrt
from fletcher.convert.targets.emit import choose, emit
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.reporter import Reporter

from ..heads import test_colbert, test_splade
from ..heads.test_classification import DISTILBERT, MODERNBERT
from ..heads.tiny import DOCUMENTS, QUERY, SIZES, VOCABULARY, convert, save, silent
from ..parity import randomize
from .sessions import load_target, models_of

FAMILIES: Mapping[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES | {"type_vocab_size": 1},
    "DistilBert": DISTILBERT,
    "MPNet": SIZES,
    "Albert": SIZES | {"embedding_size": 16},
    "Electra": SIZES | {"embedding_size": 16},
    "ModernBert": MODERNBERT,
}


def _classifier(folder: Path, family: str) -> Path:
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family], num_labels=2)
    model = randomize(getattr(transformers, f"{family}ForSequenceClassification")(config))
    return save(model, folder, types=family in ("Bert", "Albert", "Electra"))


Load = Callable[[str, str], tuple[Architecture, ModelCard, HeadReference]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Makes a tiny model with a head, once."""
    torch.set_num_threads(1)
    return functools.cache(lambda head, family: _load(tmp_path_factory.mktemp(head) / "model", head, family))


def _load(folder: Path, head: str, family: str) -> tuple[Architecture, ModelCard, HeadReference]:
    if head == "scores":
        artifact = convert(_classifier(folder, family)).path
    elif head == "sparse":
        artifact = convert(test_splade.make(folder, family, FAMILIES[family]), "splade").path
    else:
        artifact = convert(test_colbert.make(folder, skipped=[".", "!"])).path
    card = Artifact.open(artifact).manifest.card
    return describe_model(Checkpoint.open(folder), card), card, HeadReference.load(folder, card)


def _rows(head: str, reference: HeadReference) -> list[Row]:
    """Documents, or pairs with one query."""
    query = QUERY if head == "scores" else None
    return [reference.tokenize(text, query=query) for text in DOCUMENTS]


def _encodings(rows: list[Row]) -> Encodings:
    plain = Encodings.from_lists([row.ids for row in rows])
    types = [row.types if row.types is not None else (0,) * len(row.ids) for row in rows]
    return Encodings(plain.ids, plain.offsets, plain.dropped, np.concatenate(types).astype(np.int32))


COMBINATIONS = [
    *(("scores", family, target) for family in FAMILIES for target in ("cuda", "tensorrt", "coreml")),
    *(("sparse", family, target) for family in FAMILIES for target in ("cuda", "tensorrt")),
    ("token_vectors", "Bert", "cuda"),
]


@pytest.mark.parametrize(("head", "family", "target"), COMBINATIONS)
def test_results_are_those_of_transformers(load: Load, tmp_path: Path, head: str, family: str, target: str) -> None:
    architecture, card, reference = load(head, family)
    rows = _rows(head, reference)
    found: NDArray[np.float32] = load_target(architecture, card, tmp_path, target, "fp32").run(_encodings(rows))
    results = [reference.compute(row) for row in rows]
    expected = np.concatenate(results) if head == "token_vectors" else np.stack(results)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "Albert", "Electra"])
@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
def test_token_types_of_pairs_count(load: Load, tmp_path: Path, family: str, target: str) -> None:
    """Without them the scores are others: the comparison above has power."""
    architecture, card, reference = load("scores", family)
    encodings = _encodings(_rows("scores", reference))
    session = load_target(architecture, card, tmp_path, target, "fp32")
    untyped = Encodings(encodings.ids, encodings.offsets, encodings.dropped)
    assert np.abs(session.run(encodings) - session.run(untyped)).max() > 1e-3


@pytest.mark.parametrize(("head", "family", "target"), COMBINATIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_operators_are_those_of_the_targets_list(
    load: Load, tmp_path: Path, head: str, family: str, target: str, precision: Any
) -> None:
    architecture, card, _ = load(head, family)
    for model in models_of(architecture, card, tmp_path, target, precision)[1]:
        assert {(node.domain, node.op_type) for node in model.graph.node} <= _listed(target)
        if target == "coreml":
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
            info = check_coreml_partitions(inferred, True, "coreml_supported_mlprogram_ops.md")
            assert info.num_partitions == 1 and info.num_supported_nodes == info.num_nodes


def _listed(target: str) -> set[tuple[str, str]]:
    if target == "cuda":
        return set(cuda.OPERATORS)
    return {("", name) for name in {"tensorrt": tensorrt.OPERATORS, "coreml": coreml.OPERATORS}[target]}


@pytest.mark.parametrize(("head", "family", "target"), [case for case in COMBINATIONS if case[1] == "Bert"])
def test_half_precision_ranks_alike(load: Load, tmp_path: Path, head: str, family: str, target: str) -> None:
    architecture, card, reference = load(head, family)
    rows = _rows(head, reference)
    found = load_target(architecture, card, tmp_path, target, "fp16").run(_encodings(rows))
    results = [reference.compute(row) for row in rows]
    expected = np.concatenate(results) if head == "token_vectors" else np.stack(results)
    for ours, theirs in zip(found, expected, strict=True):
        cosine = float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))
        assert cosine >= 0.9999


def _emit(architecture: Architecture, card: ModelCard, target: str) -> None:
    emit(target, architecture, card.dimension, card.max_tokens, choose(target, "fp32"))


def _filled_up(load: Load, folder: Path) -> tuple[Architecture, ModelCard]:
    source = test_colbert.make(folder, expansion={"strategy": "fixed", "length": 9})
    card = Artifact.open(convert(source).path).manifest.card
    return describe_model(Checkpoint.open(source), card), card


def _three_types(load: Load, folder: Path) -> tuple[Architecture, ModelCard]:
    sizes: dict[str, Any] = SIZES | {"type_vocab_size": 3, "num_labels": 2}
    config = transformers.BertConfig(**sizes)
    source = save(randomize(transformers.BertForSequenceClassification(config)), folder)
    card = Artifact.open(convert(source).path).manifest.card
    return describe_model(Checkpoint.open(source), card), card


REFUSED: Mapping[str, tuple[Callable[[Load, Path], tuple[Architecture, ModelCard]], str, str]] = {
    "sparse on coreml": (lambda load, folder: load("sparse", "Bert")[:2], "coreml", rf"no Log.* {VOCABULARY} tokens"),
    "token vectors on tensorrt": (
        lambda load, folder: load("token_vectors", "Bert")[:2],
        "tensorrt",
        "padded rectangle",
    ),
    "token vectors on coreml": (lambda load, folder: load("token_vectors", "Bert")[:2], "coreml", "padded rectangle"),
    "filling that none attends to on cuda": (_filled_up, "cuda", "filled up with tokens that none attends to"),
    "three token types on coreml": (_three_types, "coreml", "not the 3 of this model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_target_cannot_give_is_refused_with_the_reason(load: Load, tmp_path: Path, name: str) -> None:
    make, target, reason = REFUSED[name]
    architecture, card = make(load, tmp_path / "model")
    with pytest.raises(InputError, match=f"target {target}.*{reason}.*export it for"):
        _emit(architecture, card, target)


@pytest.mark.parametrize(("head", "option"), [("scores", "classification"), ("sparse", "splade")])
def test_an_artefact_of_several_targets_is_compared_layer_by_layer(tmp_path: Path, head: str, option: Any) -> None:
    folder = tmp_path / "model"
    made = _classifier(folder, "Bert") if head == "scores" else test_splade.make(folder)
    targets = ("cpu", "tensorrt", *["coreml"] * (head == "scores"))
    exported = export(
        str(made),
        tmp_path / "artifact",
        targets=targets,
        precisions=("fp32", "fp16"),
        head=option,
        progress=silent,
    )
    names = [variant.name for variant in Artifact.open(exported.path).manifest.variants]
    assert "tensorrt-fp16" in names
    for name in names:
        report = verify_layers(exported.path, variant=name, reporter=Reporter(as_json=True))
        assert report.first is None, f"{name}: {report.summary}"
        assert "modules.2/dense" in {point.key for point in report.points} or head == "sparse"
