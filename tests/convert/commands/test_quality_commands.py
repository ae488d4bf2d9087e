"""`quality`, `calibrate` and `reduce`: results as tables and JSON, and one message for bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fletcher.convert.commands.cli import app
from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Artifact
from fletcher.runtime.commandline.options import Settings
from fletcher.runtime.errors import InputError


def call(*args: str | Path, as_json: bool = False) -> Result:
    """Run a command in this process."""
    settings = Settings("fletcher-convert")
    settings.as_json = as_json
    return CliRunner().invoke(app, list(map(str, args)), obj=settings)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentence[start : start + 15].strip() for sentence in SENTENCES for start in (0, 6, 12)))
    return file


def test_two_artifacts_side_by_side(tiny_artifact: Path, texts: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    lines = texts.read_text().split("\n")
    labels.write_text("\n".join("even" if len(line) % 2 else "odd" for line in lines))
    report = tmp_path / "report.json"
    options = ("--texts", texts, "--labels", labels, "--report", report)
    done = call("quality", tiny_artifact, tiny_artifact, *options)
    assert done.exit_code == 0, done.exception
    assert "agree on 100.0% of the 10 nearest neighbors" in " ".join(done.stdout.split())
    assert "linear probe, accuracy" in done.stdout
    assert len(json.loads(report.read_text())["reports"]) == 2


def test_a_calibration_is_written_and_removed(tiny_artifact: Path, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    parts = [sentence[:14] for sentence in SENTENCES if sentence.isascii()]
    lines = [f"1\t{part}\t{part[:9]}" for part in parts] + [
        f"0\t{one}\t{parts[row - 9]}" for row, one in enumerate(parts)
    ]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    done = call("calibrate", artifact, "--pairs", tmp_path / "pairs.tsv", "--method", "isotonic", as_json=True)
    assert done.exit_code == 0, done.exception
    assert Artifact.open(artifact).manifest.calibration is not None
    assert call("calibrate", artifact, "--remove").exit_code == 0
    assert Artifact.open(artifact).manifest.calibration is None
    assert isinstance(call("calibrate", artifact).exception, InputError)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("quality", "a", "b", "c", "--texts", "TEXTS"), "at most two artifacts, and there are 3"),
        (("quality", "a", "--texts", "missing.txt"), "missing.txt cannot be read"),
        (("quality", "a", "--texts", "TEXTS", "--report", "x.pdf"), "use the suffix .html or .json"),
        (("quality", "a", "--texts", "TEXTS", "--queries", "TEXTS"), "belong together"),
        (("reduce", "a", "-o", "b", "--texts", "TEXTS", "--whiten"), "choose --dimensions"),
    ],
)
def test_bad_input_is_named_before_an_artifact_is_opened(args: tuple[str, ...], message: str, texts: Path) -> None:
    done = call(*(str(texts) if arg == "TEXTS" else arg for arg in args))
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
