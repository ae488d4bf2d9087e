"""Input types: the names of Fletcher, of the card, and of other servers."""

from __future__ import annotations

import msgspec
import pytest

from fletcher.model_zoo.card import INPUT_TYPE_SYNONYMS, INPUT_TYPES, ModelCard
from fletcher.runtime.errors import OptionError
from fletcher.runtime.options.embed import EmbedOptions

CARD = ModelCard(
    name="model",
    family="bert",
    dimension=8,
    max_tokens=16,
    pooling=("mean",),
    normalize=False,
    license="Apache-2.0",
    prompts={"query": "query: ", "document": "passage: ", "clustering": "cluster: "},
)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (None, "passage: "),
        ("document", "passage: "),
        ("query", "query: "),
        ("classification", ""),
        ("raw", ""),
        # Cohere: https://docs.cohere.com/reference/embed, input_type
        ("search_query", "query: "),
        ("search_document", "passage: "),
        # NVIDIA NIM: input_type of /v1/embeddings is query or passage
        ("passage", "passage: "),
        # Jina: tasks of jina-embeddings-v3
        ("retrieval.query", "query: "),
        ("retrieval.passage", "passage: "),
        ("separation", "cluster: "),
    ],
)
def test_the_prompt_of_an_input_type(name: str | None, prompt: str) -> None:
    assert EmbedOptions(input_type=name).prompt(CARD) == prompt


@pytest.mark.parametrize("name", ["passage", "search_query"])
def test_a_prompt_of_the_card_has_precedence(name: str) -> None:
    card = msgspec.structs.replace(CARD, prompts={**CARD.prompts, name: "its own: "})
    assert EmbedOptions(input_type=name).prompt(card) == "its own: "


@pytest.mark.parametrize("name", ["text-matching", "image", "Query", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"input_type is '{name}'; model has query, document, clustering"):
        EmbedOptions(input_type=name).prompt(CARD)


def test_every_synonym_means_an_input_type_of_every_model() -> None:
    assert set(INPUT_TYPE_SYNONYMS.values()) <= set(INPUT_TYPES)
    assert not INPUT_TYPE_SYNONYMS.keys() & set(INPUT_TYPES)
