"""Quantized artifacts of the real MiniLM, compared with its float32 graph, and rejected requests."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.quantize.graph.matrices import matrices
from fletcher.quantize.measure import parent_comparison
from fletcher.quantize.quantized_artifact import Quantized, quantize
from fletcher.quantize.recipe import Recipe, load_recipe
from fletcher.quantize.sensitivity import Damage, Sensitivity, exclude_greedily, plot_sensitivity, sensitivity
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ArtifactError, CanaryError, FletcherError, InputError, ProviderError
from fletcher.runtime.machine.machine import Machine
from fletcher.runtime.providers.cpu_features import check_instructions
from fletcher.runtime.providers.mlas.graph import CpuGraph

TEXTS = SENTENCES


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, minilm_artifact: Path) -> Path:
    """Return the artifact of the default recipe, which tests must not change."""
    path = tmp_path_factory.mktemp("int8") / "artifact"
    quantize(minilm_artifact, path, load_recipe("int8-per-token"), texts=TEXTS)
    return path


def test_matrices_have_stable_names(minilm_artifact: Path) -> None:
    by_name = {matrix.name: matrix for matrix in matrices(minilm_artifact)}
    assert len(by_name) == 1 + 4 * 6
    assert by_name["layers.3.feed_forward.down"].shape == (1536, 384)
    assert by_name["embeddings.word"].shape == (30522, 384)


def test_per_token_vectors_are_near_float32_and_do_not_depend_on_the_batch(int8: Path, minilm_artifact: Path) -> None:
    with Encoder.load(minilm_artifact, provider="mlas") as encoder:
        reference = encoder.embed(TEXTS).vectors
    with Encoder.load(int8, provider="mlas") as encoder:
        vectors = encoder.embed(TEXTS).vectors
        alone = np.concatenate([encoder.embed([text]).vectors for text in TEXTS[:10]])
    cosines = np.sum(vectors * reference, axis=1)
    assert cosines.mean() >= 0.997
    assert cosines.min() >= 0.99
    assert np.sum(alone * vectors[:10], axis=1).min() >= 1 - 1e-6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("short", "of which 'short' has"),
        ("", "of which the empty one has"),
        ("w" * 99, f"{'w' * 40}…' has"),
        (None, "texts."),
    ],
)
def test_a_canary_below_the_measured_texts_is_explained(text: str | None, words: str) -> None:
    result = Quantized(
        path=Path("out"),
        variant="cpu-w8",
        digest="",
        recipe="w8",
        num_bytes=1,
        parent_bytes=4,
        cosine_mean=0.9995,
        cosine_p1=0.999,
        cosine_min=0.998,
        neighbors=1.0,
        canary_cosine=0.996,
        canary_text=text,
        texts=200,
        batch_dependent=False,
    )
    note = result.explain_canary()
    assert "0.9960000, is below that of all 200 measured texts, because the canary has other" in note and words in note
    assert dataclasses.replace(result, canary_cosine=0.9985).explain_canary() == ""
    nan = float("nan")
    assert dataclasses.replace(result, canary_cosine=nan, cosine_min=nan).explain_canary() == ""


def test_the_worst_text_of_the_canary_is_named(minilm_artifact: Path, tmp_path: Path) -> None:
    result = quantize(minilm_artifact, tmp_path / "out", "int8-per-token", texts=TEXTS)
    canary = read_canary(Artifact.open(minilm_artifact).canary_file)
    texts = list(canary.texts)
    with Encoder.load(tmp_path / "out", provider="mlas") as encoder:
        vectors = encoder.embed(texts, input_type="raw").vectors
    cosines = np.sum(vectors * canary.vectors, axis=1)
    assert result.canary_text == texts[int(cosines.argmin())]
    assert result.canary_cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert result.texts == len(TEXTS) // 2  # the others calibrate


def test_the_manifest_records_the_quantization(int8: Path, minilm_artifact: Path) -> None:
    artifact = Artifact.open(int8)
    (variant,) = artifact.manifest.variants
    assert artifact.manifest.parent == Artifact.open(minilm_artifact).digest
    assert variant.name == "cpu-int8-per-token"
    assert msgspec.convert(variant.recipe, Recipe) == load_recipe("int8-per-token")
    assert not variant.batch_dependent
    assert variant.measured["cosine_mean"] > 0.997
    assert 0.9 < variant.tolerance.min_cosine < 1


def test_a_broken_weight_does_not_pass_the_canary(int8: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(int8, broken)
    artifact = Artifact.open(broken)
    graph = onnx.load(broken / artifact.variant().file)
    scales = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("0.output.dense.weight.scales"))
    scales.raw_data = np.zeros(384, np.float32).tobytes()
    onnx.save(graph, broken / artifact.variant().file)
    write_manifest(broken, msgspec.structs.replace(artifact.manifest, files=describe_files(broken)))
    with pytest.raises(CanaryError):
        Encoder.load(broken, provider="mlas")


@pytest.mark.parametrize("name", ["w4", "w8", "bf16", "fp16", "int8-dynamic", "int8-static", "mixed"])
@pytest.mark.slow
def test_every_recipe_loads_and_is_recorded(name: str, minilm_artifact: Path, tmp_path: Path) -> None:
    result = quantize(minilm_artifact, tmp_path / "out", load_recipe(name))
    assert result.batch_dependent == (name in ("int8-dynamic", "w8"))
    assert result.num_bytes < 0.52 * result.parent_bytes
    with Encoder.load(tmp_path / "out", provider="mlas") as encoder:
        assert encoder.embed(["a text"]).vectors.shape == (1, 384)


def test_the_error_names_a_matrix_that_does_not_exist(minilm_artifact: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="x", scheme="w8", exclude=("layers.9.*",))
    with pytest.raises(InputError, match=r"layers\.9"):
        quantize(minilm_artifact, tmp_path / "out", recipe, texts=TEXTS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "no text"), (["a", "b"], "too few"), (["one word"] * 40, "which says nothing about other lengths")],
)
def test_texts_that_cannot_calibrate(minilm_artifact: Path, tmp_path: Path, texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(minilm_artifact, tmp_path / "out", load_recipe("int8-static"), texts=texts)
    assert not list(tmp_path.iterdir())


def test_nan_during_calibration_is_an_error(
    minilm_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, feeds: object, outputs: list[str]) -> list[np.ndarray]:
        return [np.full((3, 4), np.nan, np.float32) for _ in outputs]

    monkeypatch.setattr(CpuGraph, "run", broken)
    with pytest.raises(ArtifactError, match="NaN or infinite on calibration text 1"):
        quantize(minilm_artifact, tmp_path / "out", load_recipe("int8-static"), texts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_an_artifact_is_not_quantized_twice(int8: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="quantized already"):
        quantize(int8, tmp_path / "out", load_recipe("w8"), texts=TEXTS)


def test_an_interruption_leaves_no_files(
    minilm_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parent_comparison, "embed_texts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(minilm_artifact, tmp_path / "out", load_recipe("w8"), texts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_too_much_damage_is_an_error(minilm_artifact: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="x", scheme="w4", block=256, min_cosine=0.999)
    with pytest.raises(ArtifactError, match="too much damage"):
        quantize(minilm_artifact, tmp_path / "out", recipe, texts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_the_error_without_vnni_names_a_suitable_recipe(int8: Path) -> None:
    artifact = Artifact.open(int8)
    old = Machine("old", frozenset({"avx2"}), (0,), ((0,),), 1 << 30)
    arm = Machine("arm", frozenset({"asimd"}), (0,), ((0,),), 1 << 30)
    check_instructions(artifact, artifact.variant(), arm)
    with pytest.raises(ProviderError, match="int8-per-token-reduced"):
        check_instructions(artifact, artifact.variant(), old)


def test_sensitivity_measures_each_matrix_and_exclusion_keeps_the_bound(minilm_artifact: Path) -> None:
    recipe = Recipe(name="x", scheme="w4", exclude=("layers.[2-5].*",))
    result = sensitivity(minilm_artifact, recipe, texts=TEXTS[:16])
    assert {damage.matrix for damage in result.damages} == {
        name.name for name in matrices(minilm_artifact) if name.name.startswith(("layers.0", "layers.1"))
    }
    assert all(damage.loss > 0 for damage in result.damages)
    total = sum(damage.loss for damage in result.damages)
    excluded = exclude_greedily(result, total / 2)
    remaining = sum(damage.loss for damage in result.damages if damage.matrix not in excluded)
    assert 0 < len(excluded) < len(result.damages)
    assert remaining <= total / 2


def test_damage_is_written_as_json_and_as_a_plot(tmp_path: Path) -> None:
    damages = (
        Damage("layers.0.feed_forward.down", "w4", 2e-3, 5e-3, 0.3),
        Damage("layers.0.qkv", "w4", 1e-4, 2e-4, 0.2),
    )
    result = Sensitivity("a model", "w4", 16, damages)
    for name in ("d.json", "d.svg", "d.png"):
        plot_sensitivity(result, tmp_path / name)
    assert msgspec.json.decode((tmp_path / "d.json").read_bytes(), type=Sensitivity) == result
    assert "<svg" in (tmp_path / "d.svg").read_text() and (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"\.json, \.png or \.svg"):
        plot_sensitivity(result, tmp_path / "d.pdf")


def test_exclusion_is_by_damage_per_work_and_takes_the_table_last() -> None:
    damages = (
        Damage("down", "w8", 4e-4, 1e-3, 0.2),
        Damage("qkv", "w8", 3e-4, 1e-3, 0.1),
        Damage("embeddings.word", "w8", 2e-4, 1e-3, 0.0),
        Damage("up", "w8", 1e-4, 1e-3, 0.2),
    )
    result = Sensitivity("a model", "w8", 16, damages)
    assert exclude_greedily(result, 1.1e-3) == ()
    assert exclude_greedily(result, 7.1e-4) == ("qkv",)
    assert exclude_greedily(result, 3.1e-4) == ("qkv", "down")
    assert exclude_greedily(result, 0.0) == ("qkv", "down", "up", "embeddings.word")


@pytest.mark.slow
def test_mixed_is_nearer_than_per_token_and_static_works_with_large_columns(
    minilm_artifact: Path, tmp_path: Path
) -> None:
    means = {
        name: quantize(minilm_artifact, tmp_path / name, load_recipe(name)).cosine_mean
        for name in ("int8-per-token", "mixed", "int8-static")
    }
    assert means["mixed"] >= 0.999 and means["mixed"] > means["int8-per-token"] >= 0.997
    bare = msgspec.structs.replace(load_recipe("int8-static"), name="bare", outliers=0)
    assert 1 - means["int8-static"] < 0.5 * (1 - quantize(minilm_artifact, tmp_path / "bare", bare).cosine_mean)


def test_every_error_is_a_fletcher_error(tmp_path: Path) -> None:
    with pytest.raises(FletcherError):
        quantize(tmp_path, tmp_path / "out", load_recipe("w8"))
