"""Quality of an artifact's vectors from the texts to the report, and its errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from fletcher.convert.quality import quality as quality_module
from fletcher.convert.quality.embedded import unit_vectors
from fletcher.convert.quality.inputs import Corpus, QualityTexts, make_texts
from fletcher.convert.quality.options import QualityOptions
from fletcher.convert.quality.quality import Measured, compare_quality, measure_quality
from fletcher.convert.quality.sentence import conclude
from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError, MissingPackageError


def some_texts(labels: Sequence[str] | None = None) -> QualityTexts:
    """Return 80 different short texts and one copy, half of them about numbers, with queries that are some of the texts."""
    texts = [sentence[:30] for sentence in SENTENCES] + [
        f"{row} times {row * 7} is {row * row * 7}" for row in range(40)
    ]
    texts.append(texts[0])
    ids = tuple(f"d{row}" for row in range(len(texts)))
    given = [("words", "numbers")[row >= 40] for row in range(80)] + ["words"]
    queries = Corpus(("q1", "q2"), (texts[3], texts[50]), (None, None))
    return make_texts(
        Corpus(ids, tuple(texts), (None,) * len(texts)),
        name="texts.jsonl",
        labels=labels or given,
        queries=queries,
        judgments={"q1": {"d3": 1}, "q2": {"d50": 1}},
    )


@pytest.fixture(scope="module")
def measured(tiny_artifact: Path) -> Measured:
    return measure_quality(tiny_artifact, some_texts())


def test_the_report_is_about_the_different_texts(measured: Measured) -> None:
    report = measured.report
    assert (report.texts, report.different, report.empty) == (81, 80, 0)
    assert report.duplicates.copies == 1
    assert report.geometry.dimension == 32
    assert report.words.truncated > 0  # the longest input has 20 tokens, one for each letter


def test_neighbors_are_those_of_scikit_learn_on_the_encoders_vectors(measured: Measured, tiny_artifact: Path) -> None:
    with Encoder.load(tiny_artifact) as encoder:
        vectors = encoder.embed(measured.texts.different).vectors
    distances = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors)[0]
    assert measured.report.geometry.neighbors.mean == pytest.approx(1 - distances[:, 1].mean(), abs=1e-5)


def test_a_query_finds_the_text_that_it_equals(measured: Measured) -> None:
    retrieval = measured.report.retrieval
    assert retrieval is not None
    assert (retrieval.queries, retrieval.documents) == (2, 81)
    assert (retrieval.ndcg, retrieval.mrr, retrieval.recall_10) == pytest.approx((1, 1, 1))
    assert retrieval.alignment == pytest.approx(0, abs=1e-6)
    full = {one.type: one.ndcg for one in measured.report.compressed if one.method == "full"}
    assert full["float32"] == pytest.approx(1)


def test_labels_of_words_and_numbers_are_separated_better_than_by_a_guess(measured: Measured) -> None:
    labels = measured.report.labels
    assert labels is not None
    assert labels.majority == 0.5
    assert labels.probe_accuracy > 0.8


def test_the_sentence_says_the_result_and_the_largest_problem(measured: Measured) -> None:
    sentence = measured.report.sentence
    assert sentence.startswith("On 80 texts, checkpoint reaches an nDCG@10 of 1.000 for 2 queries; ")
    assert sentence.endswith("of the texts are longer than the model's longest input and were cut.")
    short = msgspec.structs.replace(measured.report, retrieval=None)
    assert "separates 2 labels with an accuracy of" in conclude(short)
    assert "no smaller vectors keep 0.95" in conclude(msgspec.structs.replace(short, advice=None))


def test_an_artifact_agrees_with_itself(measured: Measured) -> None:
    found = compare_quality(measured, measured)
    assert (found.overlap, found.spearman) == pytest.approx((1, 1))


def test_a_report_can_be_encoded_as_json(measured: Measured) -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(measured.report))
    assert decoded["retrieval"]["ndcg"] == measured.report.retrieval.ndcg  # type: ignore[union-attr]


def test_one_label_is_refused_before_anything_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_module, "Encoder", None)
    with pytest.raises(InputError, match="one label"):
        measure_quality("nowhere", some_texts(["one"] * 81))


def test_a_missing_package_is_named_before_anything_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_module, "Encoder", None)
    monkeypatch.setattr("fletcher.convert.quality.packages.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[quality\]"):
        measure_quality("nowhere", some_texts())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_is_refused_with_its_text(value: float) -> None:
    vectors = np.ones((3, 2), np.float32)
    vectors[1, 0] = value
    with pytest.raises(InputError, match=r"1 of 3 vectors have NaN or infinity, the first for the text 'b'"):
        unit_vectors(vectors, ["a", "b", "c"])


def test_a_zero_vector_is_refused() -> None:
    with pytest.raises(InputError, match="the vector of the text 'a' is zero"):
        unit_vectors(np.zeros((1, 2), np.float32), ["a"])


def test_a_model_that_gives_all_texts_one_vector_is_refused(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(self: Encoder, texts: Sequence[str], **_: Any) -> Any:
        count = len(texts)
        return SimpleNamespace(vectors=np.ones((count, 4), np.float32), tokens=np.ones(count), dropped=np.zeros(count))

    monkeypatch.setattr(Encoder, "embed", constant)
    with pytest.raises(InputError, match="all 80 texts have the same vector"):
        measure_quality(tiny_artifact, some_texts())


@pytest.mark.parametrize("field", ["duplicate_cosine", "min_overlap"])
def test_options_have_bounds(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} is 1.5"):
        msgspec.structs.replace(QualityOptions(), **{field: 1.5})
