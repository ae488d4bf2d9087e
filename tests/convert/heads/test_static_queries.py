"""Inference-free SPLADE (Router): each route is compared with sentence-transformers, and other Routers are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import Router, SparseStaticEmbedding, SpladePooling, Transformer

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.artifact.folder import QUERY_WEIGHTS
from fletcher.runtime.errors import ArtifactError, CheckpointError, FletcherError, TooLongError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.models.spec import ModelSpec

from ...serve.fronts.channel.pair import open_engine, open_front
from .test_splade import dense, make
from .tiny import DOCUMENTS, MAX_TOKENS, VOCABULARY

#: sentence-transformers fails on a query without a token.
TEXTS = [*filter(None, DOCUMENTS), "w9 w9 w1", "<s> w3 unheard"]


def save_router(folder: Path, **settings: Any) -> Path:
    """Write a model as sentence-transformers saves it: SPLADE for documents, random weights for queries, one of them zero."""
    transformer = Transformer(str(make(folder / "base")), transformer_task="fill-mask")
    torch.manual_seed(5)
    weights = torch.rand(VOCABULARY) * 3
    weights[20] = 0
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(transformer.tokenizer, weight=weights, frozen=True)],
        document_modules=[transformer, SpladePooling(pooling_strategy="max")],
        **settings,
    )
    model = SparseEncoder(modules=[router], device="cpu", prompts={"query": "w7 "})
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_router(tmp_path_factory.mktemp("router"))


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    export(str(folder), folder.parent / "artifact")
    return folder.parent / "artifact"


def call(method: Any, texts: list[str]) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = method(texts, convert_to_sparse_tensor=False, batch_size=1).numpy()
    return rows


def check_routes(folder: Path, artifact: Path) -> None:
    """Compare each route of an artifact with sentence-transformers."""
    model = SparseEncoder(str(folder), device="cpu")
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        for kind, method in (("query", model.encode_query), ("document", model.encode_document), ("raw", model.encode)):
            found = encoder.embed_sparse(TEXTS, input_type=kind)
            np.testing.assert_allclose(dense(found), call(method, TEXTS), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(
            dense(encoder.embed_sparse(TEXTS)), dense(encoder.embed_sparse(TEXTS, input_type="document"))
        )


def test_each_route_is_that_of_sentence_transformers(folder: Path, artifact: Path) -> None:
    check_routes(folder, artifact)


def test_other_texts_can_be_read_like_queries(tmp_path: Path) -> None:
    folder = save_router(tmp_path, default_route="query")
    export(str(folder), tmp_path / "artifact")
    check_routes(folder, tmp_path / "artifact")


def test_the_route_of_documents_alone_is_a_usual_model(folder: Path, tmp_path: Path) -> None:
    export(str(folder), tmp_path / "documents", task="document")
    model = SparseEncoder(str(folder), device="cpu")
    with Encoder.load(tmp_path / "documents", provider="mlas", workers=1) as encoder:
        np.testing.assert_allclose(
            dense(encoder.embed_sparse(TEXTS)), call(model.encode_document, TEXTS), rtol=0, atol=1e-5
        )
    with pytest.raises(FletcherError, match="SparseStaticEmbedding"):
        export(str(folder), tmp_path / "queries", task="query")


def test_a_query_needs_no_row_of_the_model(artifact: Path) -> None:
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        task = encoder.prepare(Texts(("w1 w2 w2",)), EmbedOptions(input_type="query"), "sparse")
        assert len(task.encodings) == 0
        found = encoder.embed_sparse(["w1 w2 w2", ""], input_type="query")
    assert found.tokens.tolist() == [4, 1]  # with the prompt's token, without special tokens
    assert np.diff(found.offsets).tolist() == [3, 1]


def test_a_long_query_is_cut_at_the_tokenizers_limit(artifact: Path) -> None:
    long = "w1 " * (MAX_TOKENS + 5)
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        found = encoder.embed_sparse([long], input_type="query")
        assert (found.tokens.tolist(), found.dropped.tolist()) == ([MAX_TOKENS], [6])
        with pytest.raises(TooLongError, match="text 0 is too long for a query"):
            encoder.prepare(Texts((long,)), EmbedOptions(input_type="query", overflow="refuse"), "sparse")


def test_verification_compares_both_routes(artifact: Path) -> None:
    report = verify(artifact)
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} >= {"query", "document"}


def test_layers_are_those_of_the_documents(artifact: Path) -> None:
    verify_layers(artifact).raise_if_failed()


def test_a_front_answers_queries(tmp_path_factory: pytest.TempPathFactory, artifact: Path) -> None:
    path = tmp_path_factory.mktemp("c") / "rows"
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        expected = {kind: dense(encoder.embed_sparse(TEXTS, input_type=kind)) for kind in ("query", "document")}
    spec = ModelSpec(path=str(artifact), name="splade", provider="mlas", cache=0)
    with open_engine([spec], path), open_front(path) as front:
        front.wait_for_catalog()
        for kind, rows in expected.items():
            request = EmbedRequest(Texts(tuple(TEXTS)), EmbedOptions(input_type=kind), "sparse")
            found = front.models.submit_blocking("splade", request)[1].result(30)
            np.testing.assert_allclose(dense(found), rows, rtol=0, atol=1e-5)


def test_the_space_depends_on_the_weights(folder: Path, artifact: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "query_0_SparseStaticEmbedding" / "model.safetensors"
    save_file({"weight": load_file(file)["weight"] * 2}, file)
    export(str(other), tmp_path / "artifact")
    spaces = []
    for path in (artifact, tmp_path / "artifact"):
        with Encoder.load(path, provider="mlas", workers=1) as encoder:
            spaces.append(encoder.info.space.id)
    assert spaces[0] != spaces[1]


def test_an_artifact_without_its_weights_is_refused(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / QUERY_WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="query_weights"):
        Encoder.load(copy, provider="mlas")
    with pytest.raises(ArtifactError, match="query_weights"):
        Encoder.open(Artifact.open(copy))


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_other_routers_are_refused(folder: Path, tmp_path: Path) -> None:
    def refused(name: str, **changes: Any) -> str:
        copy = shutil.copytree(folder, tmp_path / name)
        _edit(copy / "router_config.json", **changes)
        with pytest.raises(CheckpointError) as caught:
            export(str(copy), tmp_path / "artifact")
        return str(caught.value)

    config = json.loads((folder / "router_config.json").read_text())
    more = {**config["structure"], "image": config["structure"]["query"]}
    assert "image: SparseStaticEmbedding" in refused("more", structure=more)
    mappings = {**config["parameters"], "route_mappings": {"('query', 'text')": "document"}}
    assert "`route_mappings`, by which kinds" in refused("mapped", parameters=mappings)
    nowhere = {**config["parameters"], "default_route": None, "allow_empty_key": False}
    assert "default_route is None" in refused("nowhere", parameters=nowhere)
    foreign = {**config["types"], "document_1_SpladePooling": "other.SpladePooling"}
    assert "other.SpladePooling is code of another package" in refused("foreign", types=foreign)
    outside = {**config["structure"], "query": ["../query"]}
    types = {**config["types"], "../query": config["types"]["query_0_SparseStaticEmbedding"]}
    assert "'../query', which is not a folder" in refused("outside", structure=outside, types=types)


def test_two_tokenizers_and_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "tokenizers")
    _edit(copy / "query_0_SparseStaticEmbedding" / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(CheckpointError, match="different tokenizers"):
        export(str(copy), tmp_path / "artifact")
    copy = shutil.copytree(folder, tmp_path / "weights")
    save_file({"weight": np.ones(3, np.float32)}, copy / "query_0_SparseStaticEmbedding" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"`weight` of shape \(64,\) or "):
        export(str(copy), tmp_path / "artifact")
    copy = shutil.copytree(folder, tmp_path / "json")
    _edit(copy / "query_0_SparseStaticEmbedding" / "config.json", path="idf.json")
    with pytest.raises(CheckpointError, match="keys that Fletcher does not know: path"):
        export(str(copy), tmp_path / "artifact")
