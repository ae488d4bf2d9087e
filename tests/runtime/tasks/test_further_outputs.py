"""Sparse and token vectors of values worked out by hand, and the requests that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fletcher.model_zoo.card import Output
from fletcher.runtime import Encoder
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.inputs import Pairs, Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.further_outputs import _largest_weights, _without_first

#: Special tokens 0, 2 and 1 around and inside of two texts.
BATCH = Encodings.from_lists([[0, 9, 5, 9, 1, 2], [0, 5, 5, 2]])


def test_the_largest_weight_of_each_token_is_kept() -> None:
    weights = np.array([8, 1, 0, 3, 7, 6, 9, 2, 2.5, 4], np.float32)
    sparse = _largest_weights(weights, BATCH, np.array([0, 1, 2], np.int32))
    assert sparse.offsets.tolist() == [0, 1, 2]
    assert sparse.indices.tolist() == [9, 5]  # the weight of token 5 in the first text is zero
    assert sparse.values.tolist() == [3, 2.5]
    assert sparse.indices.dtype == np.int32 and sparse.values.dtype == np.float32


def test_a_text_without_a_weight_has_none() -> None:
    sparse = _largest_weights(np.zeros(10, np.float32), BATCH, np.zeros(0, np.int32))
    assert sparse.offsets.tolist() == [0, 0, 0] and len(sparse.indices) == 0
    nothing = _largest_weights(np.zeros(0, np.float32), Encodings.from_lists([]), np.zeros(0, np.int32))
    assert nothing.offsets.tolist() == [0]


def test_the_vector_of_the_first_token_is_left_out() -> None:
    vectors = np.arange(20, dtype=np.float32).reshape(10, 2)
    tokens = _without_first(vectors, BATCH)
    assert tokens.offsets.tolist() == [0, 5, 8]
    np.testing.assert_array_equal(tokens.vectors, vectors[[1, 2, 3, 4, 5, 7, 8, 9]])


def test_requests_that_cannot_be_answered(bge_m3_artifact: Path, tiny_artifact: Path) -> None:
    texts = Texts(("w1",))
    several: tuple[Output, ...] = ("vectors", "sparse")
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        for options in (EmbedOptions(overflow="windows"), EmbedOptions(overflow="late")):
            with pytest.raises(OptionError, match=r"overflow|late"):
                encoder.prepare(texts, options, several)
        with pytest.raises(OptionError, match="dimensions"):
            encoder.prepare(texts, EmbedOptions(dimensions=3), several)
        with pytest.raises(InputError, match="scores"):
            encoder.prepare(texts, EmbedOptions(), ("vectors", "scores"))
        with pytest.raises(InputError, match="can be requested"):
            encoder.prepare(texts, EmbedOptions(), ())
        with pytest.raises(InputError, match="does not score pairs"):
            encoder.prepare(Pairs("w1", ("w2",)), EmbedOptions(), several)
    with (
        Encoder.load(tiny_artifact, provider="mlas", workers=1) as plain,
        pytest.raises(InputError, match="gives vectors, not sparse"),
    ):
        plain.prepare(texts, EmbedOptions(), several)


def test_token_ids_are_those_of_the_texts(bge_m3_artifact: Path) -> None:
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        ids = encoder.tokenize(["w1 w2"]).ids.tolist()
        answers = []
        for inputs in (Texts(("w1 w2",)), TokenIds([ids])):
            task = encoder.prepare(inputs, EmbedOptions(), ("vectors", "sparse"))
            answers.append(task.finish(encoder.compute(task.encodings, task.output)))
    first, second = answers
    np.testing.assert_array_equal(first.vectors.vectors, second.vectors.vectors)
    np.testing.assert_array_equal(first.sparse.values, second.sparse.values)
