"""Models of the zoo with and without a card, and errors of a malformed catalog."""

from __future__ import annotations

import re

import pytest

from fletcher.convert.families import FAMILIES
from fletcher.model_zoo import list_cards, list_models
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
    "all-MiniLM-L6-v2": ("vectors", "bert", 384, 23),
}

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
            assert model.family in FAMILIES, model.name
            assert re.fullmatch("[0-9a-f]{40}", model.revision or ""), model.name
            assert [type(parse_location(source)) for source in model.sources] == [HubSource], model.name


def test_names_and_aliases_find_a_model_in_any_case() -> None:
    assert find_model(" COLBERTV2 ").name == "colbertv2.0"
    assert find_model("minilm").name == "all-MiniLM-L6-v2"
    with pytest.raises(CardError, match=r"no model 'gte-modernbert'.*gte-modernbert-base"):
        find_model("gte-modernbert")


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
        (ROW.replace('family = "bert"', ""), "some-model has no card, and needs"),
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
