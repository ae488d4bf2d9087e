"""Artifacts with PCA as their last layer, against sentence-transformers and scikit-learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from fletcher.convert.export.export import export
from fletcher.convert.quality.reduction.reduce import Reduced, ReduceOptions, reduce_artifact
from fletcher.convert.texts import SENTENCES
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import ArtifactError, CheckpointError, InputError

from ...tiny import save_bert, save_modules

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users
TEXTS = [sentence[start : start + 15] for sentence in SENTENCES for start in (0, 6, 12)]
DIFFERENT = list(dict.fromkeys(text for text in TEXTS if text.strip()))


@pytest.fixture(scope="module")
def reduced(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    output = tmp_path_factory.mktemp("reduced") / "tiny-8"
    return reduce_artifact(tiny_artifact, output, TEXTS, ReduceOptions(dimensions=8, verify=True))


def expected_vectors(artifact: Path, *, whiten: bool) -> np.ndarray:
    """Return scikit-learn's PCA of the original artifact's vectors of `DIFFERENT`, fitted to every second text."""
    with Encoder.load(artifact) as encoder:
        vectors = encoder.embed(DIFFERENT).vectors.astype(np.float64)
    pca = PCA(8, whiten=whiten, svd_solver="full").fit(vectors[::2])
    projected = pca.transform(vectors) if whiten else vectors @ pca.components_.T
    return np.asarray(normalize(projected))


def test_the_vectors_are_pca_of_the_original_ones(reduced: Reduced, tiny_artifact: Path) -> None:
    with Encoder.load(reduced.path) as encoder:
        found = encoder.embed(DIFFERENT).vectors
    expected = expected_vectors(tiny_artifact, whiten=False)
    assert found.shape == (len(DIFFERENT), 8)
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-4)  # signs of components are arbitrary


def test_sentence_transformers_loads_the_checkpoint_and_agrees(reduced: Reduced) -> None:
    assert reduced.status == "verified"
    reference = SentenceTransformer(str(reduced.checkpoint), device="cpu").encode(DIFFERENT, show_progress_bar=False)
    with Encoder.load(reduced.path) as encoder:
        assert encoder.embed(DIFFERENT).vectors == pytest.approx(reference, abs=1e-5)


def test_the_name_is_that_of_the_model_and_its_length(reduced: Reduced, tiny_artifact: Path) -> None:
    name = Artifact.open(tiny_artifact).manifest.card.name
    assert Artifact.open(reduced.path).manifest.card.name == f"{name}-8"


def test_the_measured_neighbors_are_those_of_the_other_half(reduced: Reduced, tiny_artifact: Path) -> None:
    held = DIFFERENT[1::2]
    with Encoder.load(tiny_artifact) as encoder, Encoder.load(reduced.path) as other:
        original, shorter = encoder.embed(held).vectors, other.embed(held).vectors

    def ten(vectors: np.ndarray) -> list[set[int]]:
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        return [set(row) for row in np.argsort(-cosines, axis=1)[:, :10].tolist()]

    kept = np.mean([len(a & b) / 10 for a, b in zip(ten(original), ten(shorter), strict=True)])
    assert reduced.overlap == pytest.approx(kept, abs=0.01)
    assert reduced.texts == len(held)
    assert f"8 dimensions in int8, 8 bytes instead of 128, keep {reduced.overlap_int8:.2f}" in reduced.sentence


def test_a_reduced_artifact_can_be_quantized(reduced: Reduced, tmp_path: Path) -> None:
    result = quantize(reduced.path, tmp_path / "int8", texts=DIFFERENT)
    assert result.cosine_mean > 0.95
    assert Artifact.open(tmp_path / "int8").manifest.card.dimension == 8


@pytest.mark.slow
def test_a_checkpoint_without_modules_and_with_whitening(tmp_path: Path) -> None:
    save_bert(tmp_path / "bert")
    export(str(tmp_path / "bert"), tmp_path / "artifact", pooling="cls", max_tokens=20)
    options = ReduceOptions(dimensions=8, whiten=True, verify=True, checkpoint=str(tmp_path / "white"))
    reduced = reduce_artifact(tmp_path / "artifact", tmp_path / "reduced", TEXTS, options)
    assert (reduced.status, reduced.shorter, reduced.checkpoint) == ("verified", (), tmp_path / "white")
    with Encoder.load(tmp_path / "artifact") as encoder:
        vectors = normalize(encoder.embed(DIFFERENT).vectors.astype(np.float64))
    expected = normalize(PCA(8, whiten=True, svd_solver="full").fit(vectors[::2]).transform(vectors))
    with Encoder.load(reduced.path) as encoder:
        found = encoder.embed(DIFFERENT).vectors
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-3)


def test_too_few_texts_and_too_many_dimensions_are_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    def attempt(texts: list[str], dimensions: int | None = 8) -> None:
        reduce_artifact(tiny_artifact, tmp_path / "new", texts, ReduceOptions(dimensions=dimensions))

    with pytest.raises(InputError, match="20 different texts, and at least 50"):
        attempt(DIFFERENT[:20] * 10)
    with pytest.raises(InputError, match="has 32 dimensions; choose fewer"):
        attempt(DIFFERENT, 32)
    with pytest.raises(InputError, match="half of the different texts, 25"):
        attempt(DIFFERENT[:50], 30)
    with pytest.raises(InputError, match=r"no shorter vectors keep 0\.95"):  # no measured length is below 32
        attempt(DIFFERENT, None)
    assert not list(tmp_path.iterdir())


def test_whitening_needs_a_length() -> None:
    with pytest.raises(InputError, match="choose --dimensions"):
        ReduceOptions(whiten=True)


def test_a_folder_with_something_else_is_not_replaced(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    options = ReduceOptions(dimensions=8, checkpoint=str(tmp_path / "mine"))
    with pytest.raises(InputError, match="is not a checkpoint: it is not replaced"):
        reduce_artifact(tiny_artifact, tmp_path / "new", DIFFERENT, options)
    with pytest.raises(ArtifactError, match="is the artifact to reduce"):
        reduce_artifact(tiny_artifact, tiny_artifact, DIFFERENT, options)


def test_a_checkpoint_that_cuts_its_vectors_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path / "cut")
    save_modules(tmp_path / "cut")
    (tmp_path / "cut" / "config_sentence_transformers.json").write_text('{"truncate_dim": 16}')
    export(str(tmp_path / "cut"), tmp_path / "artifact")
    with pytest.raises(CheckpointError, match="truncate_dim is 16"):
        reduce_artifact(tmp_path / "artifact", tmp_path / "new", DIFFERENT, ReduceOptions(dimensions=8))


def test_a_quantized_artifact_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    quantize(tiny_artifact, tmp_path / "int8", texts=DIFFERENT)
    with pytest.raises(ArtifactError, match="is quantized: reduce the float32 artifact"):
        reduce_artifact(tmp_path / "int8", tmp_path / "new", DIFFERENT)


def test_an_existing_checkpoint_is_replaced(reduced: Reduced, tiny_artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(reduced.checkpoint, tmp_path / "new-checkpoint")
    options = ReduceOptions(dimensions=4, verify=False)
    again = reduce_artifact(tiny_artifact, tmp_path / "new", DIFFERENT, options)
    assert (again.dimension, again.checkpoint) == (4, tmp_path / "new-checkpoint")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
