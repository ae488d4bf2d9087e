"""Figures of items: scikit-learn's nDCG, and cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score
from sklearn.preprocessing import normalize as scale

from fletcher.convert.tune.outcome.bootstrap import Gain, Interval
from fletcher.convert.tune.outcome.figures import (
    Embed,
    RankingData,
    fidelity_samples,
    order_sample,
    pair_sample,
    ranking_sample,
    remembered,
    shortened,
)
from fletcher.convert.tune.outcome.results import conclude
from fletcher.runtime.tasks.postprocess import normalize

GENERATOR = np.random.default_rng(3)


def table(vectors: Mapping[str, NDArray[np.float32]]) -> Embed:
    return lambda texts, kind: np.stack([vectors[text] for text in texts])


def random_vectors(names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    rows = normalize(GENERATOR.standard_normal((len(names), 8)).astype(np.float32))
    return dict(zip(names, rows, strict=True))


def test_ndcg_of_each_query_is_scikit_learns() -> None:
    queries, documents = [f"q{row}" for row in range(20)], [f"d{row}" for row in range(40)]
    relevant = tuple((row, row + 20) if row % 2 else (row,) for row in range(20))
    vectors = random_vectors([*queries, *documents])
    found = ranking_sample(RankingData(tuple(queries), tuple(documents), relevant), table(vectors))
    scores = np.stack([vectors[one] for one in queries]) @ np.stack([vectors[one] for one in documents]).T
    truth = np.zeros((20, 40))
    for row, places in enumerate(relevant):
        truth[row, list(places)] = 1
    expected = [ndcg_score(truth[row : row + 1], scores[row : row + 1], k=10) for row in range(20)]
    assert found.values == pytest.approx(expected)
    assert 0 < found.figure() < 1


def test_shorter_vectors_are_the_first_elements_of_length_one() -> None:
    vectors = random_vectors(["a", "b"])
    asked: list[tuple[tuple[str, ...], str]] = []

    def embed(texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        asked.append((tuple(texts), kind))
        return table(vectors)(texts, kind)

    whole = remembered(embed)
    found = [shortened(whole, length)(["a", "b"], "query") for length in (8, 3)]
    expected = np.stack([vectors["a"], vectors["b"]])
    assert found[0] == pytest.approx(expected)
    assert found[1] == pytest.approx(scale(expected[:, :3]))
    assert whole(["a"], "query") == pytest.approx(expected[:1])
    assert asked == [(("a", "b"), "query"), (("a",), "query")]  # not again for another length


def test_cosines_of_pairs() -> None:
    vectors = {"a": np.array([1, 0], np.float32), "b": np.array([0.6, 0.8], np.float32)}
    sample = pair_sample(["a", "a"], ["a", "b"], np.array([2.0, 1.0]), table(vectors))
    assert sample.values == pytest.approx([1, 0.6])
    assert sample.figure() == pytest.approx(1)


def test_fidelity_of_equal_and_of_rotated_vectors() -> None:
    teacher = normalize(GENERATOR.standard_normal((30, 8)).astype(np.float32))
    assert {name: one.figure() for name, one in fidelity_samples(teacher, teacher).items()} == pytest.approx(
        {"teacher's ten neighbors": 1, "cosine with the teacher": 1}
    )
    turned = fidelity_samples(np.ascontiguousarray(-teacher), teacher)  # all angles stay, all cosines are -1
    assert turned["teacher's ten neighbors"].figure() == 1
    assert turned["cosine with the teacher"].figure() == pytest.approx(-1)
    assert list(fidelity_samples(teacher[:, :4], teacher)) == ["teacher's ten neighbors"]


def test_order_of_a_reranker_by_hand() -> None:
    vectors = {
        "q": np.array([1, 0], np.float32),
        "near": np.array([0.8, 0.6], np.float32),
        "middle": np.array([0.6, 0.8], np.float32),
        "far": np.array([0, 1], np.float32),
    }
    texts = [["near", "middle", "far"]] * 3
    scores = [np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 2.0])]
    sample = order_sample(["q"] * 3, texts, scores, table(vectors))
    assert sample.values == pytest.approx([1, 0, 0.5])  # of two pairs in the last one, near and middle are exchanged


def gain(before: float, after: float, low: float, high: float) -> Gain:
    same = Interval(before, before, before), Interval(after, after, after)
    return Gain(
        name="nDCG@10",
        graph="float32",
        items=9,
        before=same[0],
        after=same[1],
        gain=Interval(after - before, low, high),
    )


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (gain(0.5, 0.6, 0.05, 0.15), "nDCG@10 in float32 went from 0.5000 to 0.6000 (difference +0.0500 to +0.1500)."),
        (gain(0.5, 0.51, -0.05, 0.07), "Nothing was gained beyond noise: "),
        (gain(0.5, 0.4, -0.15, -0.05), "The training did harm: "),
    ],
)
def test_the_sentence_says_so(one: Gain, sentence: str) -> None:
    assert conclude((one,)).startswith(sentence)
