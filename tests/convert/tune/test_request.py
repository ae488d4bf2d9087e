"""Steps that all trainings share: texts that are cut, prompts, the split of pairs, and default learning rates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from sentence_transformers import SentenceTransformer

from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.contrastive import default_rate
from fletcher.convert.tune.data.examples import Example
from fletcher.convert.tune.options import ContrastiveOptions, SplitOptions
from fletcher.convert.tune.request import TuneRequest, column_prompts, cut_share, cut_texts, split_pairs
from fletcher.model_zoo.progress import SILENT
from fletcher.runtime import Artifact


class Lines:
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_cut_text_has_the_tokens_that_truncation_leaves(tiny_checkpoint: Path) -> None:
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    texts = ["a", "one two three four five six seven eight nine"]
    cut = cut_texts(model, texts, 6)
    assert cut[0] == "a"
    assert texts[1].startswith(cut[1]) and cut[1] != texts[1]
    expected = model.tokenizer(texts[1], truncation=True, max_length=6)["input_ids"]
    assert model.tokenizer(cut[1])["input_ids"] == expected


def test_the_share_of_cut_texts_is_shown(tiny_checkpoint: Path) -> None:
    model, progress = SentenceTransformer(str(tiny_checkpoint), device="cpu"), Lines()
    texts = ["a", "b", "c", "one two three four five six seven eight nine"]
    assert cut_share(model, texts, 6, progress) == (0.25, 6)  # type: ignore[arg-type]
    assert progress.lines == ["25.0% of the training texts have more than 6 tokens and are cut"]
    assert cut_share(model, texts[:3], 6, progress) == (0.0, 6)  # type: ignore[arg-type]
    assert len(progress.lines) == 1


def test_columns_of_documents_have_the_prompt_of_documents(tiny_artifact: Path) -> None:
    card = msgspec.structs.replace(
        Artifact.open(tiny_artifact).manifest.card, prompts={"query": "query: ", "document": "text: "}
    )
    expected = {"query": "query: ", "positive": "text: ", "negative_1": "text: "}
    assert column_prompts(card, ["query", "positive", "negative_1"]) == expected
    assert column_prompts(msgspec.structs.replace(card, prompts={}), ["query", "positive"]) == {}


def test_pairs_of_a_document_stay_together(tiny_artifact: Path, tmp_path: Path) -> None:
    items = [Example(f"{text} {part}", f"{part}: {text}", group=text) for text in SENTENCES for part in "abc"]
    request = TuneRequest("x", tmp_path, tmp_path, SplitOptions(held_out=0.3, duplicate_cosine=1.0))
    split = split_pairs(request, items, tiny_artifact, SILENT)
    sides = [{items[row].group for row in part} for part in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 40


@pytest.mark.parametrize(
    ("width", "lora", "rate"), [(384, None, 1e-4), (768, None, 2e-5), (None, None, 2e-5), (384, 8, 2e-4)]
)
def test_small_models_have_a_larger_learning_rate(width: int | None, lora: int | None, rate: float) -> None:
    """Rates of `docs/howto/tuning.md`; a model without a width counts as a large one."""
    config = SimpleNamespace() if width is None else SimpleNamespace(hidden_size=width)
    model = [SimpleNamespace(model=SimpleNamespace(config=config))]
    assert default_rate(model, ContrastiveOptions(lora=lora)) == rate
