"""Benchmark of the server on a GPU host, here on the CPU: figures of HTTP and Flight, and comparison of the vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ..convert.tiny import save_embedder

ROOT = Path(__file__).parents[2]


def test_a_row_of_http_and_one_of_flight_have_figures_and_right_vectors(tmp_path: Path) -> None:
    checkpoint, output = save_embedder(tmp_path / "checkpoint"), tmp_path / "report.json"
    rows = ["http-1-light", "flight-1024"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.serve.gpu", str(checkpoint), "--output", str(output)),
            *("--provider", "mlas", "--only", *rows, "--texts", "1024", "--seconds", "0.5", "--warm", "0.3"),
            *("--clients", "2", "--limit", "200"),
        ],
        cwd=ROOT,
        env=os.environ | {"FLETCHER_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert [row["name"] for row in report["rows"]] == rows
    for row in report["rows"]:
        assert not row["errors"]
        assert row["sampled"] > 0
        assert row["min_cosine"] > 0.99999
        assert row["texts/s"] > 0 and row["of engine"] > 0
        assert row["server_cores"] > 0 and row["client_cores"] > 0
    assert report["servers"][0]["orphans"] == []
    assert len(report["engine"]["minilm"]) == 2
    assert all(row in done.stdout for row in rows)
