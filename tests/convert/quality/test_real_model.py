"""Quality, calibration and reduction of the real all-MiniLM-L6-v2, by the commands as users start them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.corpora import corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MAIN = "from fletcher.convert.commands.cli import main; main()"


def convert(*args: str | Path) -> Any:
    """Return the JSON that a command prints."""
    command = [sys.executable, "-c", MAIN, *map(str, args), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def first_line(text: str) -> str:
    return text.split("\n")[0]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for text in corpus("docstrings", 1300) if "\n" in text]


@pytest.fixture(scope="module")
def file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the texts' bodies, which leave out their first lines."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        json.dumps({"_id": f"d{row}", "text": text.partition("\n")[2].strip() or text})
        for row, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_first_lines_find_their_bodies_and_the_page_has_a_map(
    minilm_artifact: Path, texts: list[str], file: Path, tmp_path: Path
) -> None:
    queries = [json.dumps({"_id": f"q{row}", "text": first_line(texts[row])}) for row in range(60)]
    (tmp_path / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (tmp_path / "qrels.tsv").write_text("".join(f"q{row}\td{row}\t1\n" for row in range(60)))
    options = ("--queries", tmp_path / "queries.jsonl", "--judgments", tmp_path / "qrels.tsv")
    page = tmp_path / "report.html"
    result = convert("quality", minilm_artifact, "--texts", file, *options, "--report", page)
    (report,) = result["reports"]
    assert report["retrieval"]["ndcg"] > 0.5  # a random order has 0.005
    assert report["geometry"]["neighbors"]["mean"] > report["geometry"]["random_pairs"]["mean"] + 0.3
    case = next(one for one in report["robustness"] if one["change"] == "lower case")
    assert case["cosine_mean"] == pytest.approx(1)  # the model does not distinguish case
    by = {(one["method"], one["dimension"], one["type"]): one["overlap"] for one in report["compressed"]}
    assert by["pca", 256, "int8"] > 0.93 > by["cut", 256, "int8"]
    assert "<canvas>" in page.read_text(encoding="utf-8")


def test_pca_to_256_dimensions_is_verified_and_keeps_neighbors(
    minilm_artifact: Path, file: Path, tmp_path: Path
) -> None:
    reduced = convert("reduce", minilm_artifact, "-o", tmp_path / "small", "--texts", file, "--dimensions", "256")
    assert reduced["status"] == "verified"
    assert reduced["overlap_int8"] > 0.93
    with Encoder.load(tmp_path / "small") as encoder:
        assert encoder.embed(["a text"]).vectors.shape == (1, 256)
        assert encoder.embed(["a text"], dimensions=64).vectors.shape == (1, 64)


def test_probabilities_are_right_on_pairs_that_they_were_not_fitted_to(
    minilm_artifact: Path, texts: list[str], tmp_path: Path
) -> None:
    artifact = Path(shutil.copytree(minilm_artifact, tmp_path / "calibrated"))
    pairs = []
    for row, text in enumerate(texts[:400]):
        other = row if row % 2 else (row + 1) % 400
        body = " ".join(texts[other].partition("\n")[2].split()) or texts[other]
        pairs.append(f"{int(other == row)}\t{' '.join(first_line(text).split())}\t{body}")
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    report = convert("calibrate", artifact, "--pairs", tmp_path / "pairs.tsv")
    assert report["calibration"]["error"] < 0.1
    assert report["calibration"]["error"] < report["uncalibrated"]["error"]
    assert Artifact.open(artifact).manifest.calibration is not None
