"""bge-reranker-v2-gemma: the zoo's card on a small Gemma, compared with FlagEmbedding's steps on transformers in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo import Checkout, ModelCard, load_card
from fletcher.model_zoo.card import LogitScore
from fletcher.model_zoo.catalog import find_model
from fletcher.model_zoo.consistency import check_card
from fletcher.model_zoo.errors import CardError
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.inputs import Pairs

from ..checkpoint.tokenizer.decoder_variants import write_variant
from ..families.decoders.models import settings_of
from ..verify.parity import randomize

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAME = "bge-reranker-v2-gemma"

# Constants of FlagEmbedding 1.4.2, inference/reranker/decoder_only/base.py (`BaseLLMReranker`).
PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
#: Its `max_length`, which is 1,024 in the examples of the model.
MAX_LENGTH = 60

LONG = "a text that is too long, "
PAIRS = (
    ("what is a hello?", "the hello"),
    ("", ""),
    (" blanks around ", "\n the end is a new line\n"),
    ("the end is a new line\n", "<eos> is a special token"),
    ("a hello?", LONG * 8),
    (LONG * 8, "the hello"),
    (LONG * 8, LONG * 8),
    ("北京是", "x" * 200),
)


def pair_ids(tokenizer: transformers.PreTrainedTokenizerBase, query: str, passage: str) -> list[int]:
    """Return the token ids that FlagEmbedding makes of a pair, by its default settings."""
    query_ids = tokenizer(f"A: {query}", add_special_tokens=False, truncation=True, max_length=MAX_LENGTH * 3 // 4)
    passage_ids = tokenizer(f"B: {passage}", add_special_tokens=False, truncation=True, max_length=MAX_LENGTH)
    separator = tokenizer("\n", add_special_tokens=False)["input_ids"]
    prompt = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    first = [tokenizer.bos_token_id, *query_ids["input_ids"]]
    second = [*separator, *passage_ids["input_ids"]]
    longest = MAX_LENGTH + len(separator) + len(prompt)
    while len(first) + len(second) > longest:  # truncation "only_second"
        second.pop()
    return [*first, *second, *separator, *prompt]


def texts_of(query: str, passage: str) -> tuple[str, ...]:
    """Return the texts of a pair that is not cut, of which each has its own tokens."""
    return ("<bos>", f"A: {query}", "\n", f"B: {passage}", "\n", PROMPT)


def theirs(folder: Path) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Return token ids and scores of the reference: the logit of "Yes" after the last token, without a sigmoid."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][0]
    rows = [pair_ids(tokenizer, *pair) for pair in PAIRS]
    with torch.inference_mode():
        logits = [model(torch.tensor([row])).logits[0, -1, yes].item() for row in rows]
    return rows, np.array(logits, np.float32)


def make(folder: Path) -> Path:
    """Write a small Gemma with a random language model, and return its folder.

    Two ends of lines are one token, as in Gemma's vocabulary, so that the ids of a pair are not those of its text as a whole.
    """
    write_variant("gemma", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    size = len(transformers.AutoTokenizer.from_pretrained(folder))
    config = transformers.GemmaConfig(**settings_of("gemma", vocab_size=size, max_position_embeddings=600))
    randomize(transformers.GemmaForCausalLM(config), norms=0.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("flag") / "checkpoint")


def card_for(folder: Path) -> ModelCard:
    """Return the zoo's card with the token and the longest input of a small tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    card = load_card(NAME)
    assert isinstance(card.logit_score, LogitScore)
    yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][0]
    after = len(tokenizer(f"\n{PROMPT}", add_special_tokens=False)["input_ids"])
    return msgspec.structs.replace(
        card,
        max_tokens=MAX_LENGTH + 2 * after,
        logit_score=msgspec.structs.replace(card.logit_score, true_token=yes),
    )


def convert(folder: Path, artifact: Path, card: ModelCard, max_tokens: int | None = None) -> Path:
    """Export a checkpoint as the zoo's model with a card, and return the artifact."""
    model = dataclasses.replace(find_model(NAME), card=card)
    checkout = Checkout(folder=folder, source=str(folder), revision=None, model=model, sha256={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fletcher.convert.export.export.fetch", lambda *_args, **_options: checkout)
        return export(str(folder), artifact, tokenizer_like="5", max_tokens=max_tokens).path


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    return convert(checkpoint, checkpoint.parent / "artifact", card_for(checkpoint))


def test_ids_and_scores_are_those_of_flag_embedding(checkpoint: Path, artifact: Path) -> None:
    rows, expected = theirs(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with Encoder.load(artifact, workers=1) as encoder:
        for pair, row, score in zip(PAIRS, rows, expected, strict=True):
            task = encoder.prepare(Pairs(pair[0], (pair[1],)), output="scores")
            assert task.encodings.ids.tolist() == row, pair
            np.testing.assert_allclose(encoder.score(pair[0], [pair[1]]).scores[0, 0], score, rtol=0, atol=2e-5)
            whole = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts_of(*pair))
            assert task.encodings.dropped.tolist() == [whole - len(row)], pair
    joined = [tokenizer("".join(texts_of(*pair)), add_special_tokens=False)["input_ids"] for pair in PAIRS[:4]]
    assert [ids == row for ids, row in zip(joined, rows, strict=False)] == [True, True, False, False]


def test_the_template_is_in_the_artifact_and_in_its_canary(checkpoint: Path, artifact: Path) -> None:
    opened = Artifact.open(artifact)
    score = opened.manifest.card.logit_score
    assert score == card_for(checkpoint).logit_score
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer(f"\n{PROMPT}", add_special_tokens=False)["input_ids"]
    encodings = read_canary(opened.canary_file).encodings
    for start, end in zip(encodings.offsets[:-1], encodings.offsets[1:], strict=True):
        assert encodings.ids[start] == tokenizer.bos_token_id
        assert encodings.ids[end - len(prompt) : end].tolist() == prompt


def test_verification_compares_ids_scores_and_layers(checkpoint: Path, artifact: Path) -> None:
    report = verify(artifact, str(checkpoint))
    assert report.verdict == "passed", report
    assert "FlagEmbedding" in report.method
    layers = verify_layers(artifact, str(checkpoint))
    assert layers.first is None and layers.verdict == "passed", layers.summary


def test_a_limit_without_room_for_a_pair_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"longest input is 100 tokens.* --max-tokens"):
        convert(checkpoint, tmp_path / "artifact", card_for(checkpoint), max_tokens=100)


def test_parts_belong_to_templates_with_the_query_first() -> None:
    card = load_card(NAME)
    assert isinstance(card.logit_score, LogitScore) and card.logit_score.template is not None
    template = msgspec.structs.replace(card.logit_score.template, query_first=False)
    changed = msgspec.structs.replace(card, logit_score=msgspec.structs.replace(card.logit_score, template=template))
    with pytest.raises(CardError, match=r"logit_score\.template\.parts"):
        check_card(changed, "a.toml")
