"""`ingest` and `search` as processes, as a user starts them, with the real all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...doubles.longbow import LongbowDouble

TEXTS = [
    "The baker takes fresh bread out of the oven.",
    "The central bank raised interest rates.",
    "How do I reset my password?",
]


def call(*args: str, text: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "fletcher-serve"), *args]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


def test_texts_from_a_pipe_are_found_by_meaning(minilm_artifact: Path, longbow: LongbowDouble, tmp_path: Path) -> None:
    place = ["--longbow", longbow.url, "--dataset", "docs"]
    rows = "".join(json.dumps({"text": text, "page": number}) + "\n" for number, text in enumerate(TEXTS))
    ingest = ["ingest", str(minilm_artifact), "-i", "-", "--format", "jsonl", *place, "--provider", "mlas", "--json"]
    done = call(*ingest, "--trace", "job-1", text=rows, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["read"], summary["sent"], summary["missing"], summary["index_len"]) == (3, 3, 0, 3)
    again = call(*ingest, text=rows, folder=tmp_path)
    assert json.loads(again.stdout)["known"] == 3
    assert len(longbow.store.ids("docs")) == 3

    search = ["search", str(minilm_artifact), *place, "--provider", "mlas"]
    output = call(*search, "--json", "-k", "2", "Borrowing money has become more expensive.", folder=tmp_path)
    assert output.returncode == 0, output.stderr
    hits: list[dict[str, Any]] = json.loads(output.stdout)
    assert hits[0]["text"] == TEXTS[1]
    assert hits[0]["score"] > hits[1]["score"]
    assert hits[0]["metadata"]["fields"] == {"page": 1}
    assert hits[0]["metadata"]["trace"] == "job-1"
    shown = call(*search, "warm loaves", folder=tmp_path)
    assert TEXTS[0] in shown.stdout.splitlines()[2]


def test_the_error_of_a_missing_longbow_is_one_message(minilm_artifact: Path, tmp_path: Path) -> None:
    place = ["--longbow", "grpc://127.0.0.1:9", "--dataset", "docs", "--timeout", "0.3", "--patience", "0.3"]
    done = call("ingest", str(minilm_artifact), "-i", "-", *place, "--provider", "mlas", text="a\n", folder=tmp_path)
    assert done.returncode == 1
    assert "Longbow at grpc://127.0.0.1:9 failed on check_readiness" in done.stderr
    assert "Traceback" not in done.stderr
