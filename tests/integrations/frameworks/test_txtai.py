"""txtai: an index whose vectors Fletcher makes, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("txtai")

from txtai import Embeddings

from ..conftest import TEXTS, Tiny, close

pytestmark = pytest.mark.slow

METHOD = "fletcher.integrations.txtai.FletcherVectors"


def test_an_index_finds_documents_by_queries(sources: dict[str, dict[str, Any]], tiny: Tiny, tmp_path: Path) -> None:
    embeddings = Embeddings(path=sources["embedder"]["source"], method=METHOD, backend="numpy")
    close(embeddings.batchtransform(TEXTS, "query"), tiny.queries)
    close(embeddings.batchtransform(TEXTS, "data"), tiny.documents)
    embeddings.index(TEXTS)
    embeddings.save(str(tmp_path / "index"))
    again = Embeddings()
    again.load(str(tmp_path / "index"))
    right = tiny.documents @ tiny.queries[0]
    for index in (embeddings, again):
        found = index.search(TEXTS[0], 3)
        assert [place for place, _ in found] == (-right).argsort().tolist()
        close([score for _, score in found], sorted(right, reverse=True))


def test_a_served_model_is_named(address: str, tiny: Tiny) -> None:
    settings = {"name": "embedder", "api_key": "any"}
    close(Embeddings(path=address, method=METHOD, vectors=settings).transform(TEXTS[0]), tiny.queries[0])
