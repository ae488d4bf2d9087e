"""Models of the zoo with and without a card, and errors of a malformed catalog."""

from __future__ import annotations

import fnmatch
import re

import pytest

from fletcher.convert.families import FAMILIES
from fletcher.model_zoo import Figure, list_cards, list_models
from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.catalog import find_model, read_catalog
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.locator import HubSource, parse_location

#: From the pages of the models: output, family, dimension, and parameters in millions.
PUBLISHED = {
    "bge-reranker-v2-m3": ("scores", "xlm-roberta", 1, 568),
    "multilingual-e5-large-instruct": ("vectors", "xlm-roberta", 1024, 560),
    "snowflake-arctic-embed-l-v2.0": ("vectors", "xlm-roberta", 1024, 568),
    "gte-modernbert-base": ("vectors", "modernbert", 768, 149),
    "granite-embedding-english-r2": ("vectors", "modernbert", 768, 149),
    "harrier-oss-v1-270m": ("vectors", "gemma3_text", 640, 268),
    "mxbai-embed-large-v1": ("vectors", "bert", 1024, 335),
    "potion-base-8M": ("vectors", "static_embedding", 256, 8),
    "GTE-ModernColBERT-v1": ("token_vectors", "modernbert", 128, 149),
    "LFM2-ColBERT-350M": ("token_vectors", "lfm2", 128, 353),
    "LFM2.5-Embedding-350M": ("vectors", "lfm2", 1024, 354),
    "jina-embeddings-v3": ("vectors", "jina_embeddings_v3", 1024, 572),
    "opensearch-neural-sparse-encoding-doc-v3-distill": ("sparse", "distilbert", 30522, 66),
    "splade-v3": ("sparse", "bert", 30522, 110),
    "answerai-colbert-small-v1": ("token_vectors", "bert", 96, 33),
    "LateOn": ("token_vectors", "modernbert", 128, 149),
    "gte-reranker-modernbert-base": ("scores", "modernbert", 1, 149),
    "mxbai-rerank-large-v2": ("scores", "qwen2", 1, 1544),
    "nli-deberta-v3-base": ("scores", "deberta-v2", 3, 184),
    "gte-Qwen2-1.5B-instruct": ("vectors", "qwen2", 1536, 1543),
    "harrier-oss-v1-27b": ("vectors", "gemma3_text", 5376, 27009),
    "llama-nemotron-embed-1b-v2": ("vectors", "llama_bidirec", 2048, 1000),
    "Nemotron-3-Embed-1B": ("vectors", "ministral3", 2048, 1141),
    "bge-reranker-v2-gemma": ("scores", "gemma", 1, 2506),
    "all-MiniLM-L6-v2": ("vectors", "bert", 384, 23),
}

#: Identifiers of licenses that SPDX lists.
SPDX = {"Apache-2.0", "MIT", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"}

#: From tables of the authors: README.md of QwenLM/Qwen3-Embedding (MTEB(eng, v2), and retrieval of the multilingual one), the
#: paper of EmbeddingGemma (arXiv 2509.20354), the pages of gte-modernbert-base (BEIR), granite r2 and arctic-embed 2.0.
AUTHORS = (
    ("Qwen3-Embedding-0.6B", "MTEB(eng, v2)", 70.70),
    ("Qwen3-Embedding-4B", "MTEB(eng, v2)", 74.60),
    ("Qwen3-Embedding-8B", "MTEB(eng, v2)", 75.22),
    ("Qwen3-Embedding-8B", "MTEB(Multilingual, v2)", 70.88),
    ("bge-m3", "MTEB(Multilingual, v2)", 54.60),
    ("multilingual-e5-large-instruct", "MTEB(eng, v2)", 65.53),
    ("multilingual-e5-large-instruct", "MTEB(Multilingual, v2)", 57.12),
    ("gte-Qwen2-7B-instruct", "MTEB(eng, v2)", 70.72),
    ("embeddinggemma-300m", "MTEB(eng, v2)", 69.7),
    ("embeddinggemma-300m", "MTEB(Multilingual, v2)", 62.49),
    ("gte-modernbert-base", "BEIR", 55.33),
)

#: Models that users of embedding servers ask for, texts only.
DEMAND = (
    *("Qwen3-Embedding-*", "bge-m3", "Qwen3-Reranker-*", "embeddinggemma-300m", "embeddinggemma-2"),
    *("bge-reranker-v2-m3", "bge-reranker-base", "nomic-embed-text-v1.5", "nomic-embed-text-v2-moe"),
    *("jina-embeddings-v3", "jina-embeddings-v5-text-nano", "jina-embeddings-v5-text-small"),
    *("multilingual-e5-small", "multilingual-e5-base", "multilingual-e5-large", "multilingual-e5-large-instruct"),
    *("snowflake-arctic-embed-m-v2.0", "snowflake-arctic-embed-l-v2.0", "gte-multilingual-base"),
    *(
        "gte-modernbert-base",
        "gte-reranker-modernbert-base",
        "granite-embedding-english-r2",
        "granite-*-multilingual-r2",
    ),
    *("LateOn", "GTE-ModernColBERT-v1"),
    *("llama-nemotron-embed-1b-v2", "Nemotron-3-Embed-1B", "voyage-4-nano", "pplx-embed-v1-*"),
    *("harrier-oss-v1-270m", "harrier-oss-v1-0.6b", "harrier-oss-v1-27b"),
    *("all-MiniLM-*", "all-mpnet-base-v2", "bge-*-en-v1.5", "e5-*-v2"),
    *("colbertv2.0", "answerai-colbert-small-v1", "LFM2-ColBERT-350M", "LFM2.5-ColBERT-350M", "mxbai-edge-colbert-*"),
    *("potion-*", "static-retrieval-mrl-en-v1"),
    *("mxbai-rerank-base-v2", "mxbai-rerank-large-v2", "bge-reranker-v2-gemma"),
    *("nli-deberta-v3-base", "mxbai-rerank-*-v1"),
    *("gte-Qwen2-1.5B-instruct", "gte-Qwen2-7B-instruct", "e5-mistral-7b-instruct", "SFR-Embedding-*"),
    *("splade-v3", "splade-cocondenser-ensembledistil", "opensearch-neural-sparse-encoding-doc-v3-*"),
)

ROW = """
[[models]]
name = "some-model"
parameters = 1_000_000
languages = ["en"]
source = "org/some-model"
revision = "0123456789abcdef0123456789abcdef01234567"
family = "bert"
dimension = 64
max_tokens = 128
license = "MIT"
"""
BENCHMARK = """
[benchmarks.beir]
name = "BEIR"
metric = "nDCG@10"
method = "mean over 15 data sets"
source = "the authors"
"""
CARD = ModelCard(
    name="carded", family="bert", dimension=64, max_tokens=128, pooling=("mean",), normalize=True, license="MIT"
)
CARDED = """
[[models]]
name = "carded"
parameters = 2_000_000
languages = 12
"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_its_published_figures(name: str) -> None:
    model = find_model(name)
    assert (model.output, model.family, model.dimension, round(model.parameters / 1e6)) == PUBLISHED[name]


def test_every_card_is_listed_and_every_other_model_has_a_pinned_source_and_a_family_that_is_converted() -> None:
    models = list_models()
    assert [model.card for model in models if model.card is not None] == list(list_cards())
    for model in models:
        assert model.parameters > 10**6 and model.languages, model.name
        if model.card is None:
            assert [type(parse_location(source)) for source in model.sources] == [HubSource], model.name
        if model.card is None and model.refused is None:
            assert model.family in FAMILIES, model.name
            assert re.fullmatch("[0-9a-f]{40}", model.revision or ""), model.name
        assert re.fullmatch("[0-9a-f]{40}", model.revision or "0" * 40), model.name


def test_every_entry_has_a_license_of_the_known_ones_languages_by_code_and_figures_with_benchmark_and_source() -> None:
    unknown = {model.license for model in list_models() if not model.license.startswith("LicenseRef-")} - SPDX
    assert not unknown
    for model in list_models():
        if isinstance(model.languages, tuple):
            assert all(re.fullmatch("[a-z]{2}|mul", code) for code in model.languages), model.name
        else:
            assert model.languages > 1, model.name
        for figure in model.figures:
            assert figure.benchmark and figure.metric and figure.method, model.name
            assert re.search(r"\b[0-9a-f]{7}\b \(20\d\d-\d\d-\d\d\)|the authors: ", figure.source), model.name
        if model.refused is not None:
            assert model.refused[0].islower() or model.refused.startswith("Fletcher"), model.name
            assert not model.refused.endswith("."), model.name


def test_models_without_a_published_figure_are_few() -> None:
    """A figure without a source is left out; a new entry should have one."""
    assert {model.name for model in list_models() if not model.figures} <= {
        "bert-tiny",
        "bge-reranker-base",
        "bge-reranker-v2-gemma",
        "embeddinggemma-2",
        "jina-embeddings-v2-base-en",
        "llama-nemotron-embed-1b-v2",
        "mxbai-rerank-xsmall-v1",
    }


@pytest.mark.parametrize(("name", "benchmark", "value"), AUTHORS)
def test_a_figure_agrees_with_the_table_of_the_models_authors(name: str, benchmark: str, value: float) -> None:
    [figure] = [figure for figure in find_model(name).figures if figure.benchmark == benchmark]
    assert figure.value == pytest.approx(value, abs=0.25)


@pytest.mark.parametrize("wanted", DEMAND)
def test_each_model_that_users_ask_for_has_an_entry(wanted: str) -> None:
    """A name with a star stands for several models."""
    names = [model.name for model in list_models()]
    assert fnmatch.filter(names, wanted), wanted


def test_names_and_aliases_find_a_model_in_any_case() -> None:
    assert find_model(" COLBERTV2 ").name == "colbertv2.0"
    assert find_model("minilm").name == "all-MiniLM-L6-v2"
    with pytest.raises(CardError, match=r"no model 'gte-modernbert'.*gte-modernbert-base"):
        find_model("gte-modernbert")


def test_models_whose_own_code_is_needed_are_refused_by_name() -> None:
    refused = {model.name for model in list_models() if model.refused}
    assert {"gte-Qwen2-1.5B-instruct", "voyage-4-nano", "pplx-embed-v1-0.6b", "embeddinggemma-2"} <= refused
    assert not {"bge-reranker-v2-gemma", "llama-nemotron-embed-1b-v2", "Nemotron-3-Embed-1B"} & refused
    assert find_model("llama-nemotron-embed-1b-v2").prompts == {"query": "query: ", "document": "passage: "}


def test_a_row_with_a_card_takes_its_settings() -> None:
    carded, other = read_catalog((CARDED + ROW).encode(), (CARD,))
    assert (carded.card, carded.dimension, carded.languages, carded.parameters) == (CARD, 64, 12, 2_000_000)
    assert (other.card, other.sources, other.languages) == (None, ("hf:org/some-model",), ("en",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW.replace("[[models]]", "[[models"), "catalog.toml"),
        (ROW.replace("dimension", "dimensions"), "dimensions"),
        (ROW.replace("parameters = 1_000_000", ""), "parameters"),
        (ROW.replace('family = "bert"', ""), "some-model has no card, and needs family"),
        (ROW.replace('license = "MIT"', 'refused = "of its code"'), "some-model has no card, and needs license"),
        (ROW + "figures = { beir = 41.9 }", "some-model: `figures.beir`: the benchmarks are none"),
        (BENCHMARK + ROW + "figures = { beir = 0 }", r"`figures\.beir`: must be between 0 and 100, and is 0"),
        (BENCHMARK + ROW + "figures = { beir = 100.5 }", "must be between 0 and 100, and is 100.5"),
        (BENCHMARK.replace('source = "the authors"', "") + ROW, "source"),
        (ROW + 'prompts = { passage = "passage: " }', r"`prompts\.passage`: the input types are query, document"),
        (ROW + ROW, "two models have the name 'some-model'"),
        (ROW + ROW.replace('"some-model"', '"other"') + 'aliases = ["Some-Model"]', "two models have the name"),
    ],
)
def test_a_malformed_catalog_is_an_error(text: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        read_catalog(text.encode(), ())


def test_a_card_needs_a_row_without_its_settings() -> None:
    with pytest.raises(CardError, match="no row for the card carded"):
        read_catalog(ROW.encode(), (CARD,))
    with pytest.raises(CardError, match="carded has a card"):
        read_catalog((CARDED + 'license = "MIT"').encode(), (CARD,))
    with pytest.raises(CardError, match="carded has a card"):
        read_catalog((CARDED + 'prompts = { query = "query: " }').encode(), (CARD,))


def test_a_figure_has_its_benchmark_metric_method_and_source() -> None:
    [model] = read_catalog((BENCHMARK + ROW + "figures = { beir = 41.9 }").encode(), ())
    method, source = "mean over 15 data sets", "the authors"
    assert model.figures == (Figure(benchmark="BEIR", metric="nDCG@10", method=method, source=source, value=41.9),)
    [carded] = read_catalog((BENCHMARK + CARDED + "figures = { beir = 41.9 }").encode(), (CARD,))
    assert carded.figures == model.figures


def test_a_refused_model_needs_no_family_and_no_commit() -> None:
    lines = [line for line in ROW.splitlines() if not line.startswith(("family", "revision"))]
    [model] = read_catalog("\n".join([*lines, 'refused = "its own code is needed"']).encode(), ())
    assert (model.family, model.revision, model.refused) == (None, None, "its own code is needed")
