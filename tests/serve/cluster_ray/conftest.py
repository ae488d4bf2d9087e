"""Fixtures: a tiny artifact whose vectors sentence-transformers gives, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from fletcher.convert.export.export import export

from ...clients.reference import save_prompted

TEXTS = ["A man is eating food.", "How do I reset my password?", "hello world"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_prompted(tmp_path_factory.mktemp("cluster-model") / "checkpoint"))


@pytest.fixture(scope="session")
def tiny_artifact(tiny_checkpoint: Path) -> Path:
    export(str(tiny_checkpoint), tiny_checkpoint.with_name("tiny"))
    return tiny_checkpoint.with_name("tiny")


@pytest.fixture(scope="session")
def tiny_vectors(tiny_checkpoint: Path) -> Any:
    """Return the vectors of `TEXTS` as documents, (3, 32)."""
    return SentenceTransformer(str(tiny_checkpoint), device="cpu").encode_document(TEXTS)
