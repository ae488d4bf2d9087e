"""Identifiers of a request's vectors: options that change a vector add a suffix, and others add none."""

from __future__ import annotations

from typing import Any

import pytest

from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.space.derived import RequestSpaces

#: Prompts of intfloat/e5-base-v2's model card, and one more.
E5 = {"query": "query: ", "document": "passage: ", "clustering": "cluster: "}
#: BAAI/bge-small-en-v1.5: queries alone have a prompt.
BGE = {"query": "Represent this sentence for searching relevant passages: "}


def spaces(prompts: dict[str, str], *, normalized: bool = True) -> RequestSpaces:
    return RequestSpaces("fs1-x", output="vectors", dimension=384, normalized=normalized, prompts=prompts)


@pytest.mark.parametrize(
    ("fields", "suffix"),
    [
        ({}, ""),
        ({"input_type": "query"}, ""),  # queries and documents are compared with each other
        ({"input_type": "document"}, ""),
        ({"input_type": "clustering"}, ".clustering"),
        ({"input_type": "classification"}, ".raw"),  # the model has no prompt for it
        ({"input_type": "raw"}, ".raw"),
        ({"dimensions": 384}, ""),
        ({"dimensions": 128}, ".128"),
        ({"input_type": "raw", "dimensions": 128}, ".raw.128"),
        ({"normalize": True}, ""),
        ({"dtype": "int8"}, ""),  # the same vector in another encoding
        ({"dtype": "ubinary"}, ""),
        ({"overflow": "refuse"}, ""),  # a text that is answered was not cut
        ({"overflow": "truncate_left"}, ".left"),
        ({"overflow": "windows"}, ".windows"),
        ({"overflow": "windows", "window_tokens": 64, "overlap_tokens": 8}, ".windows-64-8-"),
        ({"overflow": "late", "chunk_tokens": 32}, ".late---32"),
    ],
)
def test_an_option_that_changes_the_vector_adds_a_suffix(fields: dict[str, Any], suffix: str) -> None:
    assert spaces(E5).of(EmbedOptions(**fields)) == f"fs1-x{suffix}"


def test_a_type_without_a_prompt_of_its_own_is_the_space_of_documents_that_have_none() -> None:
    for input_type in (None, "query", "document", "classification", "raw"):
        assert spaces(BGE).of(EmbedOptions(input_type=input_type)) == "fs1-x"
    assert spaces(BGE).of(EmbedOptions(), has_ids=True) == "fs1-x"


def test_token_ids_get_no_prompt() -> None:
    assert spaces(E5).of(EmbedOptions(), has_ids=True) == "fs1-x.raw"


def test_scaling_to_length_1_changes_the_vectors_of_a_model_that_does_not_normalize() -> None:
    assert spaces({}, normalized=False).of(EmbedOptions(normalize=True)) == "fs1-x.l2"
    assert spaces({}, normalized=False).of(EmbedOptions(normalize=False)) == "fs1-x"


def test_the_token_states_of_an_embedder_are_another_space() -> None:
    assert spaces({}).of(EmbedOptions(), "token_vectors") == "fs1-x.tokens"
    colbert = RequestSpaces("fs1-x", output="token_vectors", dimension=128, normalized=True, prompts={})
    assert colbert.of(EmbedOptions(), "token_vectors") == "fs1-x"


def test_every_option_was_considered() -> None:
    """A new option of embedding needs a decision: does it change the vectors, and then, which suffix does it add?"""
    with_suffix = {
        "input_type",
        "dimensions",
        "normalize",
        "overflow",
        "window_tokens",
        "overlap_tokens",
        "chunk_tokens",
    }
    without_suffix = {"dtype"}
    assert set(EmbedOptions.__struct_fields__) == with_suffix | without_suffix
