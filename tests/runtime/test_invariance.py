"""Invariance of vectors: other texts in the batch, batch size, order and threads change an fp32 vector by at most 1e-6."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.session.session import Session

TOLERANCE = 1e-6

#: Texts of all lengths, from an empty one to one that is as long as the model's longest input.
TEXTS = ["", "a", *SENTENCES[:10], " ".join(SENTENCES[:6]), " ".join(SENTENCES)]


@pytest.fixture(scope="module")
def encodings(minilm_artifact: Path) -> Encodings:
    with Encoder.load(minilm_artifact, provider="mlas", workers=1) as encoder:
        return encoder.tokenize(TEXTS)


@pytest.fixture(scope="module")
def alone(minilm_artifact: Path, encodings: Encodings) -> NDArray[np.float32]:
    """Return the vectors of texts that were computed one by one on one thread of ONNX Runtime."""
    artifact = Artifact.open(minilm_artifact)
    with open_session(artifact, artifact.variant(), provider="mlas") as session:
        return in_batches(session, encodings, [[row] for row in range(len(encodings))])


@pytest.fixture(scope="module", params=[("mlas", 1), ("mlas", 3), ("openvino", 1), ("openvino", 2)], ids=str)
def session(minilm_artifact: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    provider, threads = request.param
    artifact = Artifact.open(minilm_artifact)
    with open_session(artifact, artifact.variant(), provider=provider, threads=threads) as opened:
        yield opened


def in_batches(session: Session, encodings: Encodings, batches: list[list[int]]) -> NDArray[np.float32]:
    """Return the vectors of all rows, computed in these batches."""
    vectors = np.full((len(encodings), 384), np.nan, np.float32)
    for batch in batches:
        vectors[batch] = session.run(encodings.select(np.array(batch)))
    return vectors


def arrangements(count: int) -> dict[str, list[list[int]]]:
    """Return several ways to divide all rows into batches, by name."""
    rng = np.random.default_rng(11)
    shuffled = rng.permutation(count).tolist()
    cuts = np.sort(rng.choice(np.arange(1, count), 5, replace=False))
    return {
        "by itself": [[row] for row in range(count)],
        "all at once": [list(range(count))],
        "all at once, backwards": [list(range(count))[::-1]],
        "shuffled, in batches of random sizes": [part.tolist() for part in np.split(np.array(shuffled), cuts)],
        "the longest with each of three short ones": [[count - 1, 0, 1, 2], list(range(3, count - 1))],
    }


def test_a_vector_depends_only_on_its_text(session: Session, encodings: Encodings, alone: NDArray[np.float32]) -> None:
    assert encodings.lengths.min() == 2 and encodings.lengths.max() == 256
    for name, batches in arrangements(len(encodings)).items():
        vectors = in_batches(session, encodings, batches)
        assert np.abs(vectors - alone).max() <= TOLERANCE, name


@pytest.mark.parametrize(("provider", "workers", "token_budget"), [("mlas", 3, 64), ("openvino", 2, 512)])
def test_neither_workers_nor_the_batches_they_make_change_a_vector(
    minilm_artifact: Path, alone: NDArray[np.float32], provider: str, workers: int, token_budget: int
) -> None:
    with Encoder.open(
        Artifact.open(minilm_artifact), provider=provider, workers=workers, token_budget=token_budget
    ) as encoder:
        assert np.abs(encoder.embed(TEXTS).vectors - alone).max() <= TOLERANCE
        backwards = encoder.embed(TEXTS[::-1]).vectors[::-1]
        assert np.abs(backwards - alone).max() <= TOLERANCE
