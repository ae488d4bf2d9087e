"""Embedders whose queries are means of word vectors (Router with StaticEmbedding), compared with sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError, InputError, OptionError, TooLongError
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.models.spec import ModelSpec

from ...serve.fronts.channel.pair import open_engine, open_front
from ..verify.parity import randomize
from .tiny import DOCUMENTS, SIZES, VOCABULARY, save

DIMENSION = 12
TEXTS = [*filter(None, DOCUMENTS), "w9 w9 w1", "<s> w3 unheard"]


def save_router(folder: Path, *, normalized: bool = True, **settings: Any) -> Path:
    """Write a model as sentence-transformers saves it: a table for queries, an encoder for documents."""
    torch.manual_seed(5)
    save(randomize(transformers.BertModel(transformers.BertConfig(**SIZES))), folder / "base")
    encoder = Transformer(str(folder / "base"))
    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    router = Router.for_query_document(
        query_modules=[StaticEmbedding(tokenizer, embedding_weights=torch.randn(VOCABULARY, DIMENSION))],
        document_modules=[encoder, Pooling(32, pooling_mode="mean"), Dense(32, DIMENSION)],
        **settings,
    )
    modules: list[Any] = [router, *([Normalize()] if normalized else [])]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "w7 ", "document": "w8 "})
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_router(tmp_path_factory.mktemp("router"))


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    export(str(folder), folder.parent / "artifact")
    return folder.parent / "artifact"


def check_routes(folder: Path, artifact: Path, *, normalized: bool = True) -> None:
    """Compare each route of an artifact with sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        assert encoder.card.normalize is normalized
        for kind, method in (("query", model.encode_query), ("document", model.encode_document)):
            expected = np.stack([method(text) for text in TEXTS])
            np.testing.assert_allclose(encoder.embed(TEXTS, input_type=kind).vectors, expected, rtol=0, atol=1e-5)
        expected = np.stack([model.encode(text, prompt="") for text in TEXTS])
        np.testing.assert_allclose(encoder.embed(TEXTS, input_type="raw").vectors, expected, rtol=0, atol=1e-5)
        plain = encoder.embed(TEXTS).vectors
        np.testing.assert_array_equal(plain, encoder.embed(TEXTS, input_type="document").vectors)


def test_each_route_is_that_of_sentence_transformers(folder: Path, artifact: Path) -> None:
    check_routes(folder, artifact)


@pytest.mark.parametrize(("default", "normalized"), [("query", True), ("document", False)], ids=["query", "raw"])
def test_other_default_routes_and_norms(tmp_path: Path, default: str, normalized: bool) -> None:
    folder = save_router(tmp_path, normalized=normalized, default_route=default)
    export(str(folder), tmp_path / "artifact")
    check_routes(folder, tmp_path / "artifact", normalized=normalized)


def test_a_query_needs_no_row_of_the_model(artifact: Path) -> None:
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        task = encoder.prepare(Texts(("w1 w2 w2",)), EmbedOptions(input_type="query"))
        assert len(task.encodings) == 0
        found = encoder.embed(["w1 w2 w2", "w3", "w3"], input_type="query", dtype="int8")
        assert found.tokens.tolist() == [4, 2, 2]  # with the prompt's token, without special tokens
        assert found.vectors.dtype == np.int8
        assert encoder.embed([], input_type="query").vectors.shape == (0, DIMENSION)
        many = encoder.embed(["w1 w2"] * 20_000, input_type="query").vectors
        np.testing.assert_array_equal(many, np.tile(many[0], (20_000, 1)))
        # Token ids are rows of the model.
        assert len(encoder.prepare(TokenIds(([0, 11, 2],)), EmbedOptions(input_type="query")).encodings) == 1


def test_queries_without_a_token_and_windows_of_queries_are_refused(
    folder: Path, artifact: Path, tmp_path: Path
) -> None:
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        with pytest.raises(OptionError, match="read whole: windows is for its documents"):
            encoder.embed(["w1"], input_type="query", overflow="windows")
        assert len(encoder.embed(["w1"], input_type="document", overflow="windows")) == 1
        card, tokenizer = encoder.card, encoder.tokenizer
        assert len(tokenizer.encode([""])) == 1 and card.static_queries
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = copy / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"prompts": {}}))
    export(str(copy), tmp_path / "artifact")
    with (
        Encoder.load(tmp_path / "artifact", provider="mlas", workers=1) as encoder,
        pytest.raises(InputError, match="text 1 has no token"),
    ):
        encoder.embed(["w1", ""], input_type="query")


def test_the_truncation_of_the_tables_tokenizer_applies(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = next(copy.glob("query_0_*")) / "tokenizer.json"
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": truncation}))
    export(str(copy), tmp_path / "artifact")
    model = SentenceTransformer(str(copy), device="cpu")
    with Encoder.load(tmp_path / "artifact", provider="mlas", workers=1) as encoder:
        found = encoder.embed(["w1 w2 w3 w4"], input_type="query")
        np.testing.assert_allclose(found.vectors[0], model.encode_query("w1 w2 w3 w4"), rtol=0, atol=1e-5)
        assert (found.tokens.tolist(), found.dropped.tolist()) == ([3], [2])
        with pytest.raises(TooLongError, match="text 0 is too long for a query"):
            encoder.embed(["w1 w2 w3 w4"], input_type="query", overflow="refuse")


def test_each_route_alone(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    for kind, method in (("query", model.encode_query), ("document", model.encode_document)):
        export(str(folder), tmp_path / kind, task=kind)
        with Encoder.load(tmp_path / kind, provider="mlas", workers=1) as encoder:
            expected = np.stack([method(text) for text in TEXTS])
            np.testing.assert_allclose(encoder.embed(TEXTS).vectors, expected, rtol=0, atol=1e-5)
        verify(tmp_path / kind).raise_if_failed()


def test_a_quantized_artifact_keeps_the_table(artifact: Path, tmp_path: Path) -> None:
    quantize(artifact, tmp_path / "w8", "w8", texts=TEXTS)
    found = []
    for path in (artifact, tmp_path / "w8"):
        with Encoder.load(path, provider="mlas", workers=1) as encoder:
            found.append(encoder.embed(TEXTS, input_type="query").vectors)
    np.testing.assert_array_equal(found[0], found[1])


def test_verification_compares_both_routes(artifact: Path) -> None:
    report = verify(artifact)
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} >= {"query", "document"}
    verify_layers(artifact).raise_if_failed()


def test_a_front_answers_queries(tmp_path_factory: pytest.TempPathFactory, artifact: Path) -> None:
    path = tmp_path_factory.mktemp("c") / "rows"
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        expected = {kind: encoder.embed(TEXTS, input_type=kind).vectors for kind in ("query", "document")}
    spec = ModelSpec(path=str(artifact), name="routed", provider="mlas", cache=0)
    with open_engine([spec], path), open_front(path) as front:
        front.wait_for_catalog()
        for kind, rows in expected.items():
            request = EmbedRequest(Texts(tuple(TEXTS)), EmbedOptions(input_type=kind))
            found = front.models.submit_blocking("routed", request)[1].result(30)
            np.testing.assert_allclose(found.vectors, rows, rtol=0, atol=1e-5)


def test_what_a_table_cannot_do_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(name: str, **changes: Any) -> str:
        copy = shutil.copytree(folder, tmp_path / name)
        file = copy / "router_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        with pytest.raises(CheckpointError) as caught:
            export(str(copy), tmp_path / "artifact")
        return str(caught.value)

    config = json.loads((folder / "router_config.json").read_text())
    (table,), documents = config["structure"]["query"], config["structure"]["document"]
    structure = {"query": [table, documents[-1]], "document": documents}
    assert "vectors by token (StaticEmbedding)" in refused("dense", structure=structure)
    other = shutil.copytree(folder, tmp_path / "longer")
    settings = other / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncate_dim": 8}))
    with pytest.raises(CheckpointError, match="vectors of 12 elements, its documents 8"):
        export(str(other), tmp_path / "artifact")
