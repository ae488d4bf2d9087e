"""Split: sides without near-duplicates of each other, groups that stay together, sizes, seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fletcher.convert.tune.data.split import Split, SplitTexts, split_without_leaks
from fletcher.convert.tune.options import SplitOptions
from fletcher.runtime.errors import InputError
from fletcher.runtime.tasks.postprocess import normalize

OPTIONS = SplitOptions(held_out=0.2)


def texts(
    keys: Sequence[tuple[str, ...]], groups: Sequence[str | None] | None = None, *, like: dict[str, str] | None = None
) -> SplitTexts:
    """Return texts with random vectors; a text in `like` has nearly the vector of another one."""
    different = list(dict.fromkeys(text for found in keys for text in found))
    places = {text: row for row, text in enumerate(different)}
    vectors = np.random.default_rng(0).standard_normal((len(different), 64)).astype(np.float32)
    for text, other in (like or {}).items():
        vectors[places[text]] = vectors[places[other]] + 0.01
    return SplitTexts(keys, places, normalize(vectors), groups or ())


def sides(split: Split) -> dict[int, str]:
    return {
        row: name
        for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test))
        for row in rows
    }


def test_every_example_is_on_one_side_and_the_seed_decides() -> None:
    given = texts([(f"q{row}", f"d{row}") for row in range(200)])
    split = split_without_leaks(given, OPTIONS, 0)
    assert sorted(sides(split)) == list(range(200))
    assert (len(split.validation), len(split.test), split.moved) == (20, 20, 0)
    assert split == split_without_leaks(given, OPTIONS, 0)
    assert split.test != split_without_leaks(given, OPTIONS, 1).test


def test_examples_that_share_a_text_stay_together() -> None:
    # The same document apart from case and blanks, for each four queries.
    keys = [(f"q{row}", f"D {row // 4}" if row % 2 else f"d  {row // 4} ") for row in range(200)]
    found = sides(split_without_leaks(texts(keys), OPTIONS, 0))
    assert all(len({found[row] for row in range(start, start + 4)}) == 1 for start in range(0, 200, 4))


def test_groups_stay_together() -> None:
    keys = [(f"q{row}", f"d{row}") for row in range(200)]
    found = sides(split_without_leaks(texts(keys, [f"file {row % 40}" for row in range(200)]), OPTIONS, 0))
    assert all(len({found[row] for row in range(first, 200, 40)}) == 1 for first in range(40))


def test_near_duplicates_are_moved_to_one_side() -> None:
    keys = [(f"q{row}", f"d{row}") for row in range(400)]
    plain = split_without_leaks(texts(keys), OPTIONS, 0)
    # Chains: a held-out text is near one of the training, and another held-out one is near that held-out text.
    like = {f"d{row}": f"d{other}" for row, other in zip(plain.test[:5], plain.train[:5], strict=True)}
    like |= {f"q{row}": f"d{other}" for row, other in zip(plain.validation[:5], plain.test[:5], strict=True)}
    # Other texts of one side that are near those examples, and not near the training.
    like |= {f"q{row}": f"q{other}" for row, other in zip(plain.test[5:8], plain.test[:3], strict=True)}
    given = texts(keys, like=like)
    split = split_without_leaks(given, OPTIONS, 0)
    assert split.moved == 13
    assert set(plain.test[:8]) | set(plain.validation[:5]) <= set(split.train)
    found = sides(split)
    near = given.vectors @ given.vectors.T >= OPTIONS.duplicate_cosine
    owner = {given.places[text]: row for row, pair in enumerate(keys) for text in pair}
    for one, other in np.argwhere(near).tolist():
        assert found[owner[one]] == found[owner[other]]


def test_too_little_different_data() -> None:
    keys = [(f"q{row}", f"d{row}") for row in range(100)]
    with pytest.raises(InputError, match="have no near-duplicate"):
        split_without_leaks(texts(keys, like={f"d{row}": "d0" for row in range(1, 100)}), OPTIONS, 0)
    with pytest.raises(InputError, match="of 15 examples"):
        split_without_leaks(texts(keys[:15]), OPTIONS, 0)
