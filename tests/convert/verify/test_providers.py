"""Distance between the providers of this machine, as a verification records it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.verify.providers import measure_providers
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.providers.opening import open_session

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # from torch


def test_the_difference_is_that_of_the_canary_on_both_providers(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    encodings = read_canary(artifact.canary_file).encodings
    vectors = []
    for provider in ("mlas", "openvino"):
        with open_session(artifact, artifact.variant(), provider=provider) as session:
            vectors.append(session.run(encodings))
    measured = measure_providers(artifact, artifact.variant())
    assert measured is not None and measured == pytest.approx(float(np.abs(vectors[0] - vectors[1]).max()), abs=1e-9)
    assert measured <= 2e-5


def test_a_verification_records_it_and_a_load_states_it(tiny_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, path)
    report = verify(path)
    recorded = Artifact.open(path).variant().measured["providers_max_abs"]
    assert report.variants[0].providers_max_abs == recorded
    with Encoder.load(path, provider="mlas") as encoder:
        bounds = encoder.info.bounds
    assert bounds is not None
    assert (bounds.providers.measured_abs, bounds.providers.max_abs) == (recorded, 2e-5)
    assert bounds.reference.measured_abs == report.variants[0].max_abs
    assert bounds.batch.measured_abs == report.variants[0].batch_max_abs
    assert "texts of the verification" in bounds.batch.measured_on
