"""Sessions of CoreML: on a stand-in that records its inputs, and on ONNX Runtime's CPU provider."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from fletcher.convert.export.export import export
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import FeedRules, TensorInfo, Variant
from fletcher.runtime.canary import read_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, InputError, ProviderError
from fletcher.runtime.providers.coreml.buckets import bucket_of_rows, buckets_of
from fletcher.runtime.providers.coreml.options import ComputeUnits
from fletcher.runtime.providers.coreml.session import CoreMlSession, open_coreml
from fletcher.runtime.providers.mlas.session import MlasSession
from tests.doubles.coreml import COREML, CPU, FakeCoreMl

LENGTHS = [3, 64, 32, 33, 1, 50]


def batch_of(lengths: list[int]) -> Encodings:
    rng = np.random.default_rng(3)
    return Encodings.from_lists([rng.integers(5, 30, size=length).tolist() for length in lengths])


def on_cpu(graph: Path) -> Any:
    """Return the graph on ONNX Runtime's CPU provider."""
    return onnxruntime.InferenceSession(graph, providers=[CPU])


@pytest.fixture(scope="module")
def expected(artifact: Artifact) -> NDArray[np.float32]:
    """Return the vectors of the batch of `LENGTHS` from the cpu graph, which other tests compare with transformers."""
    with MlasSession(artifact.path / "cpu-fp32.onnx", threads=1) as session:
        return session.run(batch_of(LENGTHS))


def cosines(vectors: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    left, right = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / norms)


def test_each_text_goes_to_the_smallest_bucket_that_holds_it(
    artifact: Artifact, runtime: FakeCoreMl, expected: NDArray[np.float32]
) -> None:
    variant = artifact.variant("coreml-fp32-s32")
    with open_coreml(artifact, variant, units="ALL", provider="CoreML") as session:
        assert session.provider == "CoreML"
        assert [name for name, _ in runtime.opened] == ["coreml-fp32-s32.onnx", "coreml-fp32-s64.onnx"]
        np.testing.assert_allclose(session.run(batch_of(LENGTHS)), expected, atol=2e-6)
    buckets = [name.removesuffix(".onnx").rpartition("-")[2] for name, _ in runtime.runs]
    assert buckets == ["s32", "s64", "s32", "s64", "s32", "s64"]
    (first, shapes) = runtime.runs[0]
    assert first == "coreml-fp32-s32.onnx"
    assert shapes["attention_mask"] == (1, 32)
    assert shapes["embeddings/word"] == (1, 32, 32)  # rows of the table, which the host reads


def test_any_bucket_opens_all_buckets_of_its_precision(artifact: Artifact, runtime: FakeCoreMl) -> None:
    variant = artifact.variant("coreml-fp16-s64")
    assert [one.name for one in buckets_of(artifact, variant)] == ["coreml-fp16-s32", "coreml-fp16-s64"]
    with open_coreml(artifact, variant, units="ALL", provider="CoreML") as session:
        session.run(batch_of([3]))
    assert [name for name, _ in runtime.runs] == ["coreml-fp16-s32.onnx"]


@pytest.mark.parametrize("units", ["ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"])
def test_the_options_are_those_that_coreml_accepts(
    artifact: Artifact, runtime: FakeCoreMl, tmp_path: Path, units: ComputeUnits
) -> None:
    open_coreml(artifact, artifact.variant("coreml-fp32-s32"), units=units, provider="CoreML").close()
    folder = tmp_path / "cache" / "coreml" / artifact.digest[:16] / f"onnxruntime-1.31.1-{units}"
    for _, options in runtime.opened:
        assert options == {
            "ModelFormat": "MLProgram",
            "MLComputeUnits": units,
            "RequireStaticInputShapes": "1",
            "EnableOnSubgraphs": "0",
            "ModelCacheDirectory": str(folder),
        }


def test_models_are_compiled_once_for_an_artifact_and_a_version(artifact: Artifact, runtime: FakeCoreMl) -> None:
    variant = artifact.variant("coreml-fp32-s32")

    def load() -> None:
        open_coreml(artifact, variant, units="ALL", provider="CoreML").close()

    load()
    assert len(runtime.compiled) == 2
    load()
    assert len(runtime.compiled) == 2
    runtime.__version__ = "1.32.0"  # a model that another version compiled cannot be loaded
    load()
    assert len(runtime.compiled) == 4
    other = Artifact(artifact.path, msgspec.structs.replace(artifact.manifest, files={}))
    assert other.digest != artifact.digest
    open_coreml(other, variant, units="ALL", provider="CoreML").close()
    assert len(runtime.compiled) == 6


def test_matrix_products_on_the_processor_are_rejected_and_small_nodes_are_logged(
    artifact: Artifact, runtime: FakeCoreMl, caplog: pytest.LogCaptureFixture
) -> None:
    variant = artifact.variant("coreml-fp32-s32")
    runtime.on_cpu = ("Cast",)
    with caplog.at_level(logging.INFO, "fletcher.runtime.providers.coreml.session"):
        open_coreml(artifact, variant, units="ALL", provider="CoreML").close()
    assert [record.fields["first"] for record in caplog.records] == ["layer0/Cast (Cast)"] * 2  # type: ignore[attr-defined]
    runtime.on_cpu = ("Cast", "MatMul")
    with pytest.raises(
        ProviderError, match=r"CoreML leaves matrix products of .* to the processor \(1, the first: layer0/MatMul\)"
    ):
        open_coreml(artifact, variant, units="ALL", provider="CoreML")


def test_a_build_without_coreml_is_rejected(artifact: Artifact, runtime: FakeCoreMl) -> None:
    runtime.providers = [CPU]
    with pytest.raises(ProviderError, match=r"onnxruntime 1\.31\.1 has no CoreML: pip install .*\[apple\]"):
        open_coreml(artifact, artifact.variant("coreml-fp32-s32"), units="ALL", provider="CoreML")


def test_a_session_that_runs_elsewhere_is_rejected(
    artifact: Artifact, runtime: FakeCoreMl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.doubles.coreml.Session.get_providers", lambda self: [CPU])
    with pytest.raises(ProviderError, match=rf"should run on {COREML}, and runs on \['{CPU}'\]"):
        open_coreml(artifact, artifact.variant("coreml-fp32-s32"), units="ALL", provider="CoreML")


def test_errors_of_onnx_runtime_name_the_graph(artifact: Artifact, runtime: FakeCoreMl) -> None:
    variant = artifact.variant("coreml-fp32-s32")
    runtime.fail = "no such file"
    with pytest.raises(ArtifactError, match=r"cannot load .*coreml-fp32-s32\.onnx on CoreML: no such file"):
        open_coreml(artifact, variant, units="ALL", provider="CoreML")
    runtime.fail = ""
    session = open_coreml(artifact, variant, units="ALL", provider="CoreML")
    runtime.fail_run = "Error executing model"
    with pytest.raises(
        ProviderError, match="CoreML cannot compute a text of 40 tokens with coreml-fp32-s64: Error exec"
    ):
        session.run(batch_of([40]))
    with pytest.raises(ProviderError, match="the graph has no output 'scores' but vectors"):
        session.run(batch_of([3]), "scores")
    session.close()
    with pytest.raises(ProviderError, match="the session was closed"):
        session.run(batch_of([3]))


def test_a_text_that_is_longer_than_every_bucket_is_rejected(artifact: Artifact, runtime: FakeCoreMl) -> None:
    with (
        open_coreml(artifact, artifact.variant("coreml-fp32-s32"), units="ALL", provider="CoreML") as session,
        pytest.raises(InputError, match="a text of 65 tokens was given to graphs for at most 64"),
    ):
        session.run(batch_of([3, 65]))


def test_a_cache_that_cannot_be_written_is_an_error(
    artifact: Artifact, runtime: FakeCoreMl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match=r"folder of compiled models .* cannot be created .* set FLETCHER_CACHE"):
        open_coreml(artifact, artifact.variant("coreml-fp32-s32"), units="ALL", provider="CoreML")


def test_a_variant_without_a_fixed_shape_of_one_text_is_rejected(artifact: Artifact) -> None:
    variant = artifact.variant("coreml-fp32-s32")
    damaged = msgspec.structs.replace(variant, feeds=FeedRules(tables=variant.feeds.tables))
    manifest = msgspec.structs.replace(artifact.manifest, variants=(damaged,))
    with pytest.raises(ArtifactError, match="coreml-fp32-s32 has the shape None"):
        buckets_of(Artifact(artifact.path, manifest), damaged)


def test_buckets_are_chosen_by_length() -> None:
    assert bucket_of_rows(batch_of([1, 32, 33, 64, 65, 100]), (32, 64, 100)).tolist() == [0, 0, 1, 1, 2, 2]


def test_token_vectors_come_packed_without_padding(artifact: Artifact) -> None:
    """The graph returns a rectangle of the size of its bucket. The result has only the tokens of the texts."""
    outputs = (TensorInfo("token_vectors", "float32", (1, "longest", 1)),)
    variants = tuple(
        msgspec.structs.replace(
            variant, outputs=outputs, inputs=_mask(variant), feeds=FeedRules(shape=variant.feeds.shape)
        )
        for variant in buckets_of(artifact, artifact.variant("coreml-fp32-s32"))
    )
    named = Artifact(artifact.path, msgspec.structs.replace(artifact.manifest, variants=variants))

    def places(graph: Path) -> Any:
        length = int(re.findall(r"s(\d+)", graph.name)[0])
        values = np.arange(length, dtype=np.float32).reshape(1, length, 1)
        return SimpleNamespace(run=lambda names, feeds: [values])

    with CoreMlSession(named, variants[0], places, provider="stub") as session:
        values = session.run(batch_of([2, 40, 1]))
    assert values[:, 0].tolist() == [0, 1, *range(40), 0]


def _mask(variant: Variant) -> tuple[TensorInfo, ...]:
    return tuple(info for info in variant.inputs if info.name == "attention_mask")


# Real graphs on ONNX Runtime's CPU provider -------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("fp16", 0.9999)])
def test_the_graphs_give_the_reference_vectors(
    artifact: Artifact, expected: NDArray[np.float32], precision: str, least: float
) -> None:
    variant = artifact.variant(f"coreml-{precision}-s32")
    with CoreMlSession(artifact, variant, on_cpu, provider="CPU") as session:
        vectors = session.run(batch_of(LENGTHS))
        assert cosines(vectors, expected).min() >= least
        for row in range(len(LENGTHS)):  # the vector of a text does not depend on the batch
            alone = session.run(batch_of(LENGTHS).select(np.array([row])))
            np.testing.assert_array_equal(alone[0], vectors[row])


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory, minilm_checkpoint: Path) -> Artifact:
    """Return the artifact of all-MiniLM-L6-v2 for texts of 64 tokens."""
    folder = tmp_path_factory.mktemp("minilm") / "artifact"
    targets, precisions = ("cpu", "coreml"), ("fp32", "fp16")
    export("all-MiniLM-L6-v2", folder, targets=targets, precisions=precisions, max_tokens=64)
    return Artifact.open(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_minilms_graphs_reproduce_huggingfaces_canary(minilm: Artifact, precision: str) -> None:
    variant = minilm.variant(f"coreml-{precision}-s32")
    canary = read_canary(minilm.canary_file)
    with CoreMlSession(minilm, variant, on_cpu, provider="CPU") as session:
        result = canary.judge(session.run(canary.encodings), minilm.manifest.card.output, variant.tolerance)
    assert result.passed, result.reason
