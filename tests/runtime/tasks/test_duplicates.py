"""Duplicate texts are computed once, and their vectors are the same as if each were computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions, Overflow
from fletcher.runtime.tasks.duplicates import Distinct, Promise, VectorCache, unique


@pytest.fixture
def cached(tiny_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(tiny_artifact, provider="mlas", workers=2, cache=1 << 20) as encoder:
        yield encoder


def counted(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each later batch of the encoder adds its number of texts."""
    computed: list[int] = []
    session = encoder._workers.session
    real = session.run

    def run(batch: Any, output: str | None = None) -> Any:
        computed.append(len(batch))
        return real(batch, output)

    monkeypatch.setattr(session, "run", run)
    return computed


def test_unique_keeps_the_order_of_first_appearance() -> None:
    texts, inverse = unique(["b", "a", "b", "c", "a"])
    assert list(texts) == ["b", "a", "c"]
    assert inverse is not None and inverse.tolist() == [0, 1, 0, 2, 1]
    assert unique(["a", "b"]) == (["a", "b"], None)
    assert unique([]) == ([], None)


def test_texts_of_earlier_parts_are_recognized() -> None:
    distinct = Distinct(7)
    assert list(distinct.add(["b", "a"])) == ["b", "a"]
    assert distinct.inverse is None
    assert list(distinct.add(["a", "c", "c", "b", "d"])) == ["c", "d"]
    assert distinct.inverse is not None and distinct.inverse.tolist() == [0, 1, 1, 2, 2, 0, 3]
    assert list(distinct.add([])) == [] and len(distinct) == 4


def test_duplicates_of_a_call_are_computed_once(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder.load(tiny_artifact, provider="mlas", workers=1) as encoder:
        alone = encoder.embed(["ab", "c", "the longest text of them all, truncated"])
        computed = counted(encoder, monkeypatch)
        embeddings = encoder.embed(["c", "ab", "c", "the longest text of them all, truncated", "ab", "c"], dtype="int8")
        assert sum(computed) == 3
        encoder.embed(["c"])
        assert sum(computed) == 4  # without a cache no vector is kept
    order = [1, 0, 1, 2, 0, 1]
    assert embeddings.tokens.tolist() == alone.tokens[order].tolist()
    assert embeddings.dropped.tolist() == alone.dropped[order].tolist()
    assert embeddings.scales is not None
    np.testing.assert_allclose(embeddings.vectors * embeddings.scales[:, None], alone.vectors[order], atol=0.01)


def test_texts_of_earlier_calls_are_not_computed(cached: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = counted(cached, monkeypatch)
    first = cached.embed(["ab", "c"])
    again = cached.embed(["c", "new", "ab"])
    assert sum(computed) == 3
    np.testing.assert_array_equal(again.vectors[[2, 0]], first.vectors)
    assert again.tokens[[2, 0]].tolist() == first.tokens.tolist()
    assert (cached.cache.hits, cached.cache.misses) == (2, 3)
    halves = cached.embed(["ab"], dtype="float16").vectors
    np.testing.assert_array_equal(halves, first.vectors[:1].astype(np.float16))
    assert sum(computed) == 3  # another type is made from the cached vector
    cached.embed(["ab"], input_type="query")
    cached.embed(["ab"], overflow="truncate_left")
    assert sum(computed) == 5
    list(cached.stream([["ab", "c"], ["c"]]))
    assert sum(computed) == 5


def test_duplicates_in_parts_of_a_job_that_are_under_way_are_computed_once(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is too small for all vectors, and all parts are prepared before the first one is computed."""
    parts = [["ab", "c", "d"], ["ab", "e"], ["e", "ab"], ["ab", "f", "ab"]]
    with Encoder.load(tiny_artifact, provider="mlas", workers=1, cache=1500) as encoder:
        alone = {text: encoder.embed([text]).vectors[0] for text in ("ab", "c", "d", "e", "f", "g", "h")}
        computed = counted(encoder, monkeypatch)
        tasks = []
        promised: dict[bytes, Promise] = {}
        for part in parts:
            tasks.append(encoder.prepare(Texts.of(part), promised=promised))
        values = [encoder.compute(task.encodings) for task in tasks]
        finished = [task.finish(some) for task, some in zip(tasks, values, strict=True)]
        assert sum(computed) == 5
        assert promised == {}
        for part, embeddings in zip(parts, finished, strict=True):
            np.testing.assert_allclose(embeddings.vectors, [alone[text] for text in part], rtol=0, atol=1e-6)
            embeddings.vectors[:] = 7  # must not change the vectors of later parts
        streamed = list(encoder.stream(parts))
    for part, embeddings in zip(parts, streamed, strict=True):
        np.testing.assert_allclose(embeddings.vectors, [alone[text] for text in part], rtol=0, atol=1e-6)


LONG = "the longest text of them all, in several windows " * 3


def assert_documents(embeddings: Embeddings, expected: Sequence[Embeddings]) -> None:
    """Check that vector, counts and chunks of each text are those of the text alone."""
    assert len(embeddings) == len(expected) and embeddings.chunks is not None
    for index, one in enumerate(expected):
        assert one.chunks is not None
        np.testing.assert_allclose(embeddings.vectors[index], one.vectors[0], rtol=0, atol=1e-6)
        assert embeddings.tokens[index] == one.tokens[0] and embeddings.dropped[index] == 0
        part = slice(*embeddings.chunks.offsets[index : index + 2])
        np.testing.assert_allclose(embeddings.chunks.vectors[part], one.chunks.vectors, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(embeddings.chunks.spans[part], one.chunks.spans)


@pytest.mark.parametrize("overflow", ["windows", "late"])
def test_duplicates_among_split_texts_are_computed_once(
    tiny_artifact: Path, overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Encoder.load(tiny_artifact, provider="mlas", workers=2) as encoder:
        computed = counted(encoder, monkeypatch)
        alone = {text: encoder.embed([text], overflow=overflow) for text in ("ab", LONG)}
        rows = sum(computed)
        texts = ["ab", LONG, "ab", LONG, LONG]
        assert_documents(encoder.embed(texts, overflow=overflow), [alone[text] for text in texts])
        assert sum(computed) == 2 * rows


@pytest.mark.parametrize("overflow", ["windows", "late"])
@pytest.mark.parametrize("method", ["embed", "prepare"])
def test_split_texts_of_earlier_calls_are_not_computed(
    cached: Encoder, tiny_artifact: Path, overflow: Overflow, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`embed` is the Python API; the server calls `prepare`."""
    options = EmbedOptions(overflow=overflow)

    def embed(texts: list[str]) -> Embeddings:
        if method == "embed":
            return cached.embed(texts, overflow=overflow)
        task = cached.prepare(Texts.of(texts), options)
        values = cached.compute(task.encodings, task.output) if len(task.encodings) else np.empty((0, 32), np.float32)
        embeddings: Embeddings = task.finish(values)
        return embeddings

    with Encoder.load(tiny_artifact, provider="mlas", workers=1) as fresh:
        alone = {text: fresh.embed([text], overflow=overflow) for text in ("ab", LONG, "new " + LONG)}
    computed = counted(cached, monkeypatch)
    first = embed(["ab", LONG])
    rows = sum(computed)
    first.vectors[:] = 7  # must not change the vectors of later calls
    again = embed([LONG, "ab", LONG])
    assert sum(computed) == rows
    assert_documents(again, [alone[LONG], alone["ab"], alone[LONG]])
    mixed = embed(["ab", "new " + LONG, LONG])
    assert_documents(mixed, [alone["ab"], alone["new " + LONG], alone[LONG]])
    assert sum(computed) > rows
    halves = cached.embed([LONG], overflow=overflow, dtype="float16")
    np.testing.assert_array_equal(halves.vectors, alone[LONG].vectors.astype(np.float16))
    assert cached.cache.hits == 5
    before = sum(computed)
    embed(["ab"])
    cached.embed(["ab"], overflow=overflow, window_tokens=12)
    assert sum(computed) == before + 1  # with other windows the vector is another one


def test_a_caller_cannot_change_cached_vectors(cached: Encoder) -> None:
    first = cached.embed(["ab"]).vectors
    expected = first.copy()
    first[:] = 0
    second = cached.embed(["ab"]).vectors
    np.testing.assert_array_equal(second, expected)
    second[:] = 7
    np.testing.assert_array_equal(cached.embed(["ab"]).vectors, expected)


def test_the_error_for_an_invalid_text_names_its_index_among_cached_ones(cached: Encoder) -> None:
    cached.embed(["ab", "c"])
    with pytest.raises(InputError, match="text 3 holds the lone surrogate"):
        cached.embed(["ab", "c", "ab", "\ud800"])
    with pytest.raises(InputError, match="text 2 is list"):
        cached.embed(["ab", "c", ["ab"]])  # type: ignore[list-item]
    for overflow in ("windows", "late"):
        with pytest.raises(InputError, match="text 2 holds the lone surrogate"):
            cached.embed(["ab", "ab", "\ud800"], overflow=overflow)
        with pytest.raises(InputError, match="text 1 is int, not a string"):
            cached.embed(["ab", 7], overflow=overflow)  # type: ignore[list-item]


def test_keys_tell_models_options_and_texts_apart() -> None:
    options = [EmbedOptions(), EmbedOptions(input_type="query"), EmbedOptions(overflow="truncate_left")]
    keys = {
        key for name in ("a", "b") for option in options for key in VectorCache(name, 1).keys(["x", "y", ""], option)
    }
    assert len(keys) == 2 * 3 * 3
    same = VectorCache("a", 1)
    assert same.keys(["x"], EmbedOptions(dimensions=4, dtype="int8")) == same.keys(["x"], EmbedOptions())
