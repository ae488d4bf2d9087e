"""Calibration of an artifact: the manifest, the digest, and the errors of bad pairs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fletcher.convert.quality.calibration.calibrate import calibrate_artifact, positive_score
from fletcher.convert.quality.calibration.results import CalibrationReport
from fletcher.convert.reports.quality.calibration import write_calibration_report
from fletcher.convert.texts import SENTENCES
from fletcher.quantize.measure.pairs import LabeledPairs
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.artifact.writing import calibrate
from fletcher.runtime.errors import ArtifactError, InputError
from tests.look import check_look, check_rendered


def some_pairs(count: int = 60) -> LabeledPairs:
    """Return pairs of a text with its own beginning, which belong together, and of two different texts."""
    texts = [sentence[:18] for sentence in SENTENCES if sentence.isascii()]
    same = [(texts[row % len(texts)], texts[row % len(texts)][: 10 + row % 8]) for row in range(count // 2)]
    other = [(texts[row % len(texts)], texts[(row + 5) % len(texts)]) for row in range(count // 2)]
    scores = np.array([1.0] * len(same) + [0.0] * len(other))
    firsts, seconds = (tuple(pair[side] for pair in same + other) for side in (0, 1))
    return LabeledPairs(scores, firsts, seconds)


@pytest.fixture(scope="module")
def calibrated(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CalibrationReport]:
    folder = tmp_path_factory.mktemp("calibrated") / "artifact"
    shutil.copytree(tiny_artifact, folder)
    return folder, calibrate_artifact(folder, some_pairs(), name="pairs.tsv", method="isotonic")


def test_the_manifest_has_the_calibration_and_the_digest_covers_it(
    calibrated: tuple[Path, CalibrationReport], tiny_artifact: Path, tmp_path: Path
) -> None:
    folder, report = calibrated
    artifact = Artifact.open(folder)
    assert artifact.manifest.calibration == report.calibration
    assert artifact.digest == report.digest != Artifact.open(tiny_artifact).digest
    with Encoder.load(folder) as encoder:
        assert encoder.info.calibration == report.calibration

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert calibrate(copy, None, digest=report.digest).digest == Artifact.open(tiny_artifact).digest
    with pytest.raises(ArtifactError, match="was replaced while it was calibrated"):
        calibrate(copy, report.calibration, digest=report.digest)


def test_probabilities_are_higher_for_pairs_that_belong_together(calibrated: tuple[Path, CalibrationReport]) -> None:
    folder, report = calibrated
    pairs = some_pairs()
    with Encoder.load(folder) as encoder:
        first, second = (encoder.embed(side, input_type="raw").vectors for side in (pairs.first, pairs.second))
    probabilities = report.calibration.apply(np.einsum("nd,nd->n", first, second))
    assert probabilities[:30].mean() > probabilities[30:].mean() + 0.3
    # A fitted isotonic function has the mean of its answers.
    assert probabilities.mean() == pytest.approx(0.5, abs=1e-6)


def test_the_report_is_a_page_that_fetches_nothing(calibrated: tuple[Path, CalibrationReport], tmp_path: Path) -> None:
    _, report = calibrated
    write_calibration_report(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert check_look(page).rstrip(".") == report.sentence.rstrip(".")
    check_rendered(page, tmp_path)
    assert report.sentence in page
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|https?:', page)
    write_calibration_report(report, tmp_path / "report.json")
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=CalibrationReport) == report


def test_a_damaged_calibration_is_a_damaged_manifest(
    calibrated: tuple[Path, CalibrationReport], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(calibrated[0], folder)
    manifest = msgspec.json.decode((folder / "fletcher.json").read_bytes())
    manifest["calibration"]["probabilities"][0] = 7
    del manifest["checksum"]
    (folder / "fletcher.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ArtifactError, match=r"damaged .*points of a calibration"):
        Artifact.open(folder)


def test_two_scores_need_no_threshold_and_more_do() -> None:
    assert positive_score(np.array([0.0, 5.0, 5.0])) == 5
    with pytest.raises(InputError, match=r"3 different scores, from 0 to 2.*--positive"):
        positive_score(np.array([0.0, 1.0, 2.0]))


def test_too_few_pairs_are_refused_before_the_artifact_is_loaded() -> None:
    with pytest.raises(InputError, match="at least 20 of each"):
        calibrate_artifact("nowhere", some_pairs(20))
