"""Fixtures of the integrations: two tiny models with their right results, in this process and behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from fletcher.convert.export.export import export
from fletcher.runtime import LoadOptions
from fletcher.serve import ModelSpec, Server, ServerOptions

from ..clients.reference import DOCUMENTS, QUERY, save_prompted
from ..convert.heads import test_classification

#: Texts of the embedder, which has other prompts for queries than for documents.
TEXTS = ["A man is eating food.", "How do I reset my password?", "hello world"]

#: Options of loading in tests: nothing is measured.
LOAD = LoadOptions(provider="mlas", workers=1)


@dataclass(frozen=True, slots=True)
class Tiny:
    """A tiny embedder and a tiny reranker, with the results of sentence-transformers.

    Attributes:
        embedder: artifact of the embedder.
        reranker: artifact of the reranker.
        documents: vectors of TEXTS as documents, (texts, 32).
        queries: vectors of TEXTS as queries, (texts, 32).
        scores: scores of DOCUMENTS for QUERY, (documents,).
    """

    embedder: Path
    reranker: Path
    documents: Any
    queries: Any
    scores: Any

    @property
    def order(self) -> list[int]:
        """Indices of DOCUMENTS, best first."""
        return [int(index) for index in np.argsort(-self.scores)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Return the two models."""
    folder = tmp_path_factory.mktemp("integrations")
    prompted = save_prompted(folder / "prompted-checkpoint")
    reranker = test_classification.make(folder / "reranker-checkpoint")
    export(str(prompted), folder / "prompted")
    export(str(reranker), folder / "reranker")
    real = SentenceTransformer(str(prompted), device="cpu")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    scores = np.asarray(CrossEncoder(str(reranker), device="cpu").predict(pairs))
    assert np.abs(np.subtract(*(real.encode(TEXTS, prompt_name=name) for name in ("query", "document")))).max() > 0.01
    return Tiny(
        folder / "prompted",
        folder / "reranker",
        real.encode_document(TEXTS),
        real.encode_query(TEXTS),
        scores,
    )


@pytest.fixture(scope="session")
def address(tiny: Tiny) -> Iterator[str]:
    """Return the address of a server of both models, `embedder` and `reranker`."""
    models = [
        ModelSpec(path=str(path), name=name, provider="mlas", workers=1)
        for name, path in (("embedder", tiny.embedder), ("reranker", tiny.reranker))
    ]
    with Server(models, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


@pytest.fixture(params=["process", "server"])
def sources(request: pytest.FixtureRequest, tiny: Tiny, address: str) -> dict[str, dict[str, Any]]:
    """Return the arguments that name the embedder and the reranker, in this process and behind a server."""
    if request.param == "server":
        return {name: {"source": address} for name in ("embedder", "reranker")}
    return {"embedder": {"source": str(tiny.embedder)}, "reranker": {"source": str(tiny.reranker)}}


def close(made: Any, right: Any) -> None:
    """Compare vectors or scores with those of sentence-transformers."""
    np.testing.assert_allclose(np.asarray(made, np.float64), right, rtol=0, atol=1e-5)
