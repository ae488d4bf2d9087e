"""Spaces: identifiers are short and depend on every component; comparisons name the components that differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher.model_zoo.card import Accuracy, LateInteraction, LogitScore, ModelCard, StaticQueries
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.space.space import Space, compare_spaces, space_of

SPACE = Space(
    weights="w",
    graph="g",
    tokenizer="t",
    precision="float",
    output="vectors",
    dimension=384,
    normalize=True,
    max_tokens=256,
    cut="right",
)

CHANGES: dict[str, Any] = {
    "weights": "v",
    "graph": "h",
    "tokenizer": "u",
    "precision": "int8 ab",
    "output": "sparse",
    "dimension": 128,
    "normalize": False,
    "max_tokens": 512,
    "cut": "left",
    "prompts": {"query": "query: "},
    "pooling": ("cls",),
    "strips_texts": True,
    "layer_norm_before_truncation": True,
    "activation": "sigmoid",
    "late_interaction": LateInteraction(query_tokens=32, document_tokens=180),
    "logit_score": LogitScore(true_token=9693, false_token=2152),
    "static_queries": StaticQueries(max_tokens=512),
    "tasks": {"query": 0, "document": 1},
}


def test_an_identifier_is_a_prefix_and_16_characters_that_need_no_escaping() -> None:
    assert re.fullmatch(r"fs1-[a-z2-7]{16}", SPACE.id)


def test_every_component_has_a_case() -> None:
    assert set(CHANGES) == set(Space.__struct_fields__)


@pytest.mark.parametrize("component", CHANGES)
def test_every_component_changes_the_identifier_and_is_named(component: str) -> None:
    other = msgspec.structs.replace(SPACE, **{component: CHANGES[component]})
    assert other.id != SPACE.id
    (difference,) = compare_spaces(SPACE, other)
    assert (difference.component, difference.second) == (component, CHANGES[component])


def test_the_order_of_prompts_does_not_matter() -> None:
    one = msgspec.structs.replace(SPACE, prompts={"query": "a", "document": "b"})
    other = msgspec.structs.replace(SPACE, prompts={"document": "b", "query": "a"})
    assert one.id == other.id and not compare_spaces(one, other)


def test_a_space_survives_json() -> None:
    full = msgspec.structs.replace(SPACE, **CHANGES)
    assert msgspec.json.decode(msgspec.json.encode(full), type=Space) == full


def test_a_load_that_allows_less_than_bf16_has_a_space_of_its_own(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    usual = space_of(artifact, artifact.variant(), "right")
    assert usual.precision == "float"
    assert space_of(artifact, artifact.variant(), "right", Accuracy(min_cosine=0.999)) == usual
    loose = space_of(artifact, artifact.variant(), "right", Accuracy(min_cosine=0.99))
    assert [one.component for one in compare_spaces(usual, loose)] == ["precision"]


def test_a_loaded_encoder_has_the_space_of_its_artifact_and_states_its_bounds(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        assert encoder.info.space == space_of(artifact, artifact.variant(), "right")
        bounds = encoder.info.bounds
        assert bounds is not None
        assert bounds.reference.max_abs == 1e-5 and bounds.batch.max_abs == 1e-6 and bounds.providers.max_abs == 2e-5
        assert bounds.session.measured_abs == encoder.check_canary().max_abs
        assert bounds.batch.measured_abs is not None and bounds.batch.measured_abs <= 1e-6


def test_every_field_of_a_card_was_considered() -> None:
    """A new field of a card needs a decision: it is a component of the space, or it changes no vector."""
    changes_no_vector = {
        "name",
        "family",  # the graph is in the space
        "license",
        "sources",
        "revision",
        "default_prompt",  # names a prompt, which is in the space
        "matryoshka",  # a shorter vector has a suffix
        "sha256",
        "accuracy",  # the precision class is made of it
        "aliases",
        "labels",
        "similarity",
        "include_prompt",  # the graph is in the space
        "input_type",  # the weights of a task are in the space
        "token_heads",  # further outputs have a suffix with a digest
    }
    assert set(ModelCard.__struct_fields__) == changes_no_vector | (
        set(ModelCard.__struct_fields__) & set(Space.__struct_fields__)
    )
