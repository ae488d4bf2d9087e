"""Artifacts of several targets and precisions: manifest, loads, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from fletcher.convert.export import variants as module
from fletcher.convert.export.export import Exported, export
from fletcher.convert.export.variants import check_variants
from fletcher.convert.reference.load import load_witness
from fletcher.convert.texts import SENTENCES
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Artifact, Encoder, Encodings
from fletcher.runtime.artifact.manifest import TensorInfo, Variant
from fletcher.runtime.errors import ArtifactError, CanaryError, FletcherError, InputError, MissingPackageError
from fletcher.runtime.origin import tolerances
from fletcher.runtime.origin.tolerances import TOLERANCES
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ..targets.support.rounding import RoundingGraph
from ..tiny import save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users

TARGETS = ("coreml", "cuda", "cpu", "tensorrt")
NAMES = ["cpu-fp32", "cpu-fp16", "cuda-fp32", "cuda-fp16", "tensorrt-fp32", "tensorrt-fp16"]
NAMES += ["coreml-fp32-s20", "coreml-fp16-s20"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants") / "tiny"
    return save_embedder(folder)


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Exported:
    return export(str(checkpoint), checkpoint.parent / "artifact", targets=TARGETS, precisions=("fp16", "fp32"))


@pytest.fixture(scope="module")
def artifact(exported: Exported) -> Artifact:
    return Artifact.open(exported.path)


def test_every_target_is_exported_in_every_precision_cpu_first(exported: Exported, artifact: Artifact) -> None:
    assert list(exported.variants) == NAMES
    assert list(exported.canary_unchecked) == NAMES[2:]
    for variant in artifact.manifest.variants:
        assert variant.canary == ("passed" if variant.target == "cpu" else "unchecked")
        assert variant.tolerance == TOLERANCES[variant.precision]
        assert variant.arithmetic == ("fp32" if variant.name == "cpu-fp16" else None)


def test_graphs_of_one_precision_share_their_weights(artifact: Artifact) -> None:
    names = set(artifact.manifest.files)
    assert {name for name in names if name.endswith(".safetensors")} == {
        "canary.safetensors",
        "weights.fp16.safetensors",
        "weights.fp32.safetensors",
    }
    assert {name for name in names if name.endswith(".onnx")} == {f"{name}.onnx" for name in NAMES}
    assert {variant.weights for variant in artifact.manifest.variants if variant.precision == "fp16"} == {
        "weights.fp16.safetensors"
    }
    sizes = {name: artifact.manifest.files[f"weights.{name}.safetensors"].size for name in ("fp16", "fp32")}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert not [path for path in artifact.path.iterdir() if path.name.startswith(".") or path.is_dir()]


def test_the_default_variant_and_half_storage_load_on_the_cpu(artifact: Artifact) -> None:
    vectors = {}
    for name in (None, "cpu-fp16"):
        with Encoder.load(artifact.path, variant=name, workers=1) as encoder:
            assert encoder.variant.name == (name or "cpu-fp32")
            vectors[name] = encoder.embed(SENTENCES[:5]).vectors.astype(np.float64)
    assert 0.9999 <= np.min(np.sum(vectors[None] * vectors["cpu-fp16"], 1)) < 1


def test_a_variant_without_its_device_is_refused_with_the_alternative(artifact: Artifact) -> None:
    for variant in artifact.manifest.variants[2:]:
        advice = {"cuda": r"longbow-fletcher\[nvidia\]", "tensorrt": r"longbow-fletcher\[tensorrt\]"}
        with pytest.raises(FletcherError, match=advice.get(variant.target, "load a cpu variant")):
            Encoder.load(artifact.path, variant=variant.name)


def test_an_artifact_for_a_device_alone(checkpoint: Path, tmp_path: Path) -> None:
    """The canary comes from a temporary fp32 graph for the CPU."""
    exported = export(str(checkpoint), tmp_path / "gpu", targets=("cuda",), precisions=("fp16",))
    assert exported.min_cosine is None
    assert {path.name for path in exported.path.iterdir()} == {
        "canary.safetensors",
        "cuda-fp16.onnx",
        "fletcher.json",
        "tokenizer.json",
        "weights.fp16.safetensors",
    }
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[nvidia\]"):
        Encoder.load(exported.path)
    with pytest.raises(ArtifactError, match="none of which runs"):
        verify(exported.path)


def test_verification_stamps_the_variants_that_run_on_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(str(checkpoint), tmp_path / "both", targets=("cpu", "cuda"), precisions=("fp32", "fp16"))
    verify(exported.path).raise_if_failed()
    manifest = Artifact.open(exported.path).manifest
    assert manifest.status == "verified"
    assert [variant.name for variant in manifest.variants if variant.measured] == ["cpu-fp32", "cpu-fp16"]


def test_the_manifest_lists_maxima_of_variants_that_compute_in_half_precision(
    artifact: Artifact, checkpoint: Path, tmp_path: Path
) -> None:
    maxima = artifact.manifest.maxima
    assert {"embeddings/word", "encoder.layer.1/attention/scores", "encoder.layer.0/feed_forward/up"} <= maxima.keys()
    assert all(0 <= value < 65504 for value in maxima.values())
    assert not any(variant.islands for variant in artifact.manifest.variants)
    storage = export(str(checkpoint), tmp_path / "storage", precisions=("fp16",))
    assert not Artifact.open(storage.path).manifest.maxima


def test_islands_are_in_the_manifest_and_the_graph(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "encoder.layer.1/feed_forward/norm"
    monkeypatch.setattr(module, "find_islands", lambda *_: frozenset({name}))
    exported = export(str(checkpoint), tmp_path / "a", targets=("tensorrt",), precisions=("fp16",))
    (variant,) = Artifact.open(exported.path).manifest.variants
    assert variant.islands == (name,)
    graph = onnx.load(exported.path / variant.file, load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["encoder.layer.1.output.LayerNorm.weight.fp32"] == onnx.TensorProto.FLOAT
    assert types["encoder.layer.0.output.LayerNorm.weight"] == onnx.TensorProto.FLOAT16


def test_a_half_precision_variant_that_fails_its_canary_is_removed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = {**TOLERANCES, "fp16": msgspec.structs.replace(TOLERANCES["fp16"], min_cosine=1.0)}
    monkeypatch.setattr(tolerances, "TOLERANCES", strict)
    with pytest.raises(CanaryError, match="cpu-fp16"):
        export(str(checkpoint), tmp_path / "a", precisions=("fp32", "fp16"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("targets", "precisions", "message"),
    [
        (("cpu", "tpu"), ("fp32",), "target 'tpu' is unknown: choose from cpu, cuda, tensorrt, coreml"),
        (("cpu",), ("fp8",), "precision 'fp8' is unknown: choose from fp32, fp16, bf16"),
        (("cuda", "coreml"), ("bf16",), "coreml has no bf16: it has fp32, fp16"),
    ],
)
def test_unavailable_variants_are_refused_by_name(
    targets: tuple[str, ...], precisions: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_variants(targets, precisions)


def _vectors(artifact: Artifact, variant: Variant, rows: list[list[int]], kind: type) -> NDArray[np.float64]:
    """Compute a variant's vectors with the manifest's feeds, one text at a time."""
    model = onnx.load(artifact.path / variant.file, load_external_data=False)
    with safe_open(artifact.path / variant.weights, framework="numpy") as file:
        tables = {name: file.get_tensor(tensor) for name, tensor in variant.feeds.tables.items()}
    graph = kind(model, artifact.path) if kind is RoundingGraph else kind(model.SerializeToString(), artifact.path)
    vectors = []
    for row in rows:
        feeds = make_feeds(variant.inputs, variant.feeds, Encodings.from_lists([row]), tables)
        assert list(feeds) == [info.name for info in variant.inputs]
        vectors += list(graph.run(feeds, ["vectors"])[0].astype(np.float64))
    return np.stack(vectors)


@pytest.mark.parametrize("kind", [RoundingGraph, CpuGraph])
def test_minilm_in_fp16_against_huggingface(minilm_checkpoint: Path, tmp_path: Path, kind: type) -> None:
    """Compare real weights: rounded after every node, and as ONNX Runtime runs the graph on the CPU."""
    path = tmp_path / "minilm"
    export("all-MiniLM-L6-v2", path, targets=("tensorrt", "coreml"), precisions=("fp16",))
    artifact = Artifact.open(path)
    assert artifact.variant().outputs == (TensorInfo("vectors", "float32", ("texts", 384)),)
    reference = load_witness(minilm_checkpoint, artifact.manifest.card)
    tokens = [reference.tokenize(text) for text in SENTENCES]
    rows = [list(row.ids) for row in tokens]
    theirs = np.stack([reference.compute(row) for row in tokens]).astype(np.float64)
    for name, fits in (("tensorrt-fp16", 256), ("coreml-fp16-s32", 32), ("coreml-fp16-s64", 64)):
        chosen = [index for index, row in enumerate(rows) if len(row) <= fits]
        ours = _vectors(artifact, artifact.variant(name), [rows[index] for index in chosen], kind)
        assert np.min(np.sum(ours * theirs[chosen], 1)) >= 0.9999
