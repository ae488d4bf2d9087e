"""The programs of the how-to pages, each page run as one program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chromadb")
pytest.importorskip("duckdb")
pytest.importorskip("haystack")
pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")
pytest.importorskip("polars")
pytest.importorskip("txtai")

from ..conftest import Tiny

pytestmark = pytest.mark.slow

PAGES = Path(__file__).parents[3] / "docs" / "howto" / "integrations"

#: Pages without a program in Python.
OTHERS = {"index", "llm"}


def program(page: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(blocks)


def test_the_pages_without_a_program_are_known() -> None:
    assert {path.stem for path in PAGES.glob("*.md") if not program(path.stem)} == OTHERS


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md") if path.stem not in OTHERS))
def test_a_page_runs(page: str, tiny: Tiny, address: str, tmp_path: Path) -> None:
    (tmp_path / "minilm").symlink_to(tiny.embedder)
    (tmp_path / "reranker").symlink_to(tiny.reranker)
    script = tmp_path / "page.py"
    script.write_text(program(page).replace("http://localhost:8080", address), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
