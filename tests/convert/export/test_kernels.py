"""Export with Fletcher's kernels: refusals, the artifact, and how it shows what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from fletcher.convert.commands.cli import app
from fletcher.convert.export.export import export
from fletcher.convert.export.variants import check_kernels
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.errors import ArtifactError, InputError
from tests.command_here import run_here

from ..families.decoders.checkpoints import save_qwen3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels") / "qwen3"
    save_qwen3(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Artifact:
    done = run_here(
        app,
        *("model", "export", checkpoint, "-o", checkpoint.parent / "artifact", "--target", "cuda", "--target", "cpu"),
        *("--precision", "bf16", "--pooling", "lasttoken", "--max-tokens", "90", "--no-verify", "--kernels"),
    )
    assert done.returncode == 0, done.stderr
    return Artifact.open(checkpoint.parent / "artifact")


def test_only_the_graph_for_cuda_has_own_operators(artifact: Artifact) -> None:
    for variant in artifact.manifest.variants:
        model = onnx.ModelProto.FromString(read_graph(artifact, variant))
        assert ("fletcher" in {entry.domain for entry in model.opset_import}) == (variant.target == "cuda")
    assert artifact.variant("cuda-bf16").canary == "unchecked"


def test_the_manifest_is_one_that_older_versions_read(artifact: Artifact) -> None:
    """The graph says what it needs, so that no field of the manifest is new."""
    variants = json.loads((artifact.path / "fletcher.json").read_text())["variants"]
    assert all(set(each) == set(variants[0]) and "kernels" not in each for each in variants)


def test_inspect_shows_what_a_variant_needs(artifact: Artifact, checkpoint: Path) -> None:
    shown = run_here(app, "model", "inspect", artifact.path)
    assert "Fletcher's kernels for cuda-bf16: fletcher-serve kernels build" in " ".join(shown.stdout.split())
    assert json.loads(run_here(app, "model", "inspect", artifact.path, "--json").stdout)["kernels"] == ["cuda-bf16"]


def test_a_reader_without_the_operators_refuses_the_graph(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from fletcher.runtime.artifact.graph import check

    monkeypatch.setattr(check, "OPERATOR_SETS", {"": range(13, 25), "com.microsoft": range(1, 2)})
    with pytest.raises(ArtifactError, match="operator set 'fletcher' in version 1"):
        read_graph(artifact, artifact.variant("cuda-bf16"))


def test_parts_in_standard_operators_are_reported(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    folder = tmp_path / "window"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    config |= {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    done = run_here(
        app,
        *("model", "export", folder, "-o", tmp_path / "artifact", "--target", "cuda", "--precision", "bf16"),
        *("--pooling", "lasttoken", "--max-tokens", "90", "--no-verify", "--kernels"),
    )
    assert done.returncode == 0, done.stderr
    assert "in standard operators: heads of the attention: the operator of ONNX Runtime for windows" in done.stdout, (
        done.stdout
    )


@pytest.mark.parametrize(
    ("targets", "precisions", "message"),
    [
        (("cpu",), ("bf16",), "add --target cuda"),
        (("cuda",), ("fp32",), "compute in fp16 and bf16, and a graph for cuda would be in fp32"),
        (("cuda", "cpu"), ("fp16", "fp32"), "would be in fp32"),
    ],
)
def test_other_graphs_are_refused_before_the_checkpoint_is_read(
    tmp_path: Path, targets: tuple[str, ...], precisions: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export("none", tmp_path / "artifact", targets=targets, precisions=precisions, kernels=True)


def test_a_traced_graph_has_no_own_operators() -> None:
    with pytest.raises(InputError, match="exporter optimum"):
        check_kernels([("cuda", "bf16")], "optimum")
