"""Texts that are made from a checkpoint: tokens, prompts, limits, and the settings that these texts test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.reference.witness import Witness
from fletcher.convert.verify.case import ADDED, BLANKS, CAPITALS, CJK, LONG, NEXT_LINE, SPECIAL, Case, features_of
from fletcher.convert.verify.diagnosis import Differences, find_cause
from fletcher.convert.verify.settings import Setting, judge_settings, list_settings
from fletcher.convert.verify.texts import USER_TEXTS, make_cases
from fletcher.runtime.artifact.folder import Artifact

from ..heads import test_classification
from ..heads.tiny import convert
from ..tiny import save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """Witness of a checkpoint with an added token, prompts, and files that no library reads."""
    folder = save_embedder(tmp_path_factory.mktemp("texts") / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<doc>", normalized=False)])
    plain = tokenizer.backend_tokenizer.to_str()
    assert "<doc>" in plain
    prompts = {"query": "the baker ", "web": "stone "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts, "odd": 1}))
    export(str(folder), folder.with_name("artifact"), ignored_keys=("odd",))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {
        "added_tokens_decoder": {
            "4": {"content": "[MASK]", "special": True},
            "323": {"content": "<doc>", "special": False},
        }
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "odd.json").write_text("{}")
    (folder / "README.md").write_text("a model")
    return load_witness(folder, Artifact.open(folder.with_name("artifact")).manifest.card)


def test_every_token_is_alone_and_inside_words(witness: Witness) -> None:
    cases, tokens = make_cases(witness, ())
    assert "<doc>" in tokens.added and {"[MASK]", "[CLS]", "[UNK]"} <= set(tokens.special)
    texts = {case.text for case in cases}
    for token in tokens.tokens:
        assert token in texts
        assert any(token in text and text.replace(token, "").isalnum() for text in texts)
        assert any(token in case.text and not case.ids_only for case in cases)


def test_cases_cover_prompts_limits_and_the_users_texts_and_their_number_is_limited(witness: Witness) -> None:
    user_texts = [f"text {index}" for index in range(1000)]
    cases, _ = make_cases(witness, user_texts)
    computed = [case for case in cases if not case.ids_only]
    assert {"raw", "query", "document", "web"} <= {case.input_type for case in cases}
    assert sum(case.text in user_texts for case in cases) == USER_TEXTS
    assert len(computed) < 400 and len(cases) == len(set(cases))
    beyond = [case for case in computed if LONG in case.features]
    assert len({case.text[:8] for case in beyond}) > 2 and len({case.text[-8:] for case in beyond}) > 2
    for feature in (CAPITALS, BLANKS, CJK, NEXT_LINE, ADDED, SPECIAL):
        assert any(feature in case.features for case in computed), feature


def test_a_reranker_gets_groups_of_pairs(tmp_path: Path) -> None:
    folder = test_classification.make(tmp_path / "model")
    card = Artifact.open(convert(folder).path).manifest.card
    cases, _ = make_cases(load_witness(folder, card), ["my own"])
    computed = [case for case in cases if not case.ids_only]
    assert len(computed) % 3 == 0 and len(computed) < 450
    assert all(case.query is not None for case in cases)
    assert {case.query for case in computed if case.text == "my own"} == {case.query for case in computed[:3]}


def test_features_are_those_of_the_text_without_its_tokens() -> None:
    assert CAPITALS not in features_of("a [MASK] b", special=["[MASK]"])
    assert features_of("a [MASK] b", special=["[MASK]"]) >= {SPECIAL}
    assert features_of("a\x85b") >= {NEXT_LINE}
    assert features_of("plain words") == {"any text"}


def test_a_setting_without_a_text_is_not_checked(witness: Witness) -> None:
    cases, tokens = make_cases(witness, ())
    results = {
        result.setting: result for result in judge_settings(list_settings(witness, tokens), cases, [False] * len(cases))
    }
    assert results["tokenizer_config.json: do_lower_case"].verdict == "passed"
    assert results["tokenizer_config.json: added_tokens_decoder"].verdict == "passed"
    assert results["config_sentence_transformers.json: prompts: web"].verdict == "passed"
    assert results["odd.json"].verdict == results["config_sentence_transformers.json: odd"].verdict == "not checked"
    assert "README.md" not in results
    assert results["config.json"].texts == len(cases)


def test_the_cause_is_the_feature_that_separates_the_texts() -> None:
    settings = [Setting("tokenizer_config.json: do_lower_case", frozenset((CAPITALS,))), Setting("config.json", None)]
    cases = [Case(text, "raw", features=features_of(text)) for text in ("a", "b", "A", "B", "c", "A ")]
    upper = tuple(text.text != text.text.lower() for text in cases)
    none, every = (False,) * len(cases), (True,) * len(cases)
    cause = find_cause(cases, Differences(upper, none), settings, "transformers 5")
    assert cause == (
        "Token ids differ on 3 of 3 texts with capitals, and on 0 of 3 others. "
        "Likely cause: tokenizer_config.json: do_lower_case"
    )
    assert "read by transformers 5" in find_cause(cases, Differences(every, none), settings, "transformers 5")
    assert "config.json, the weights" in find_cause(cases, Differences(none, every), settings, "")
    assert "(2,) instead" in find_cause(cases, Differences(none, every, "shape (2,) instead of (1,)"), settings, "")
    assert find_cause(cases, Differences(none, none), settings, "") == ""
