"""Changes of texts, and the figures of changed vectors in a case worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fletcher.convert.quality.measures.robustness import describe_robustness, first_half, with_typos


def test_a_typo_exchanges_two_neighboring_letters_in_every_tenth_word() -> None:
    text = "The quick brown foxes jumped over twelve lazy dogs while seven small birds sang loudly nearby"
    changed = with_typos(text)
    pairs = list(zip(text.split(), changed.split(), strict=True))
    different = [(before, after) for before, after in pairs if before != after]
    assert len(different) == 2  # of 16 words
    for before, after in different:
        assert Counter(before) == Counter(after)
        assert sum(one != other for one, other in zip(before, after, strict=True)) == 2
    assert with_typos(text) == changed  # the same at each run


@pytest.mark.parametrize("text", ["", "a b", "aaa", "12345 678"])
def test_texts_without_two_different_letters_in_a_word_stay(text: str) -> None:
    assert with_typos(text) == text


def test_the_first_half_is_rounded_up() -> None:
    assert first_half("one two three") == "one two"
    assert first_half("one") == "one"


def test_a_changed_text_is_found_if_its_nearest_text_is_the_original() -> None:
    texts = ["Red", "blue", "GREEN"]
    unit = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    vectors = {"red": [0.8, 0.6], "green": [0.6, 0.8], "RED": [1, 0], "BLUE": [0, 1]}

    def embed(changed: list[str]) -> np.ndarray:
        return np.array([vectors.get(text, [0.6, 0.8]) for text in changed], np.float32)

    found = {one.change: one for one in describe_robustness(texts, unit, embed)}
    lower = found["lower case"]
    assert lower.texts == 2  # "blue" stays as it is
    assert lower.cosine_mean == pytest.approx((0.8 - 0.6) / 2)
    assert lower.cosine_p5 == pytest.approx(
        -0.6 + 0.05 * (0.8 + 0.6)
    )  # 5 % of the way from the lower to the higher one
    assert lower.found == 0.5  # "green" is nearest to "blue"
    assert found["upper case"].found == 1.0
    assert "first half" not in found  # one word stays one word
