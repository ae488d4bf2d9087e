"""Files that change after their check are noticed, while they are loaded and later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from fletcher import Encoder
from fletcher.runtime import encoder as encoder_module
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.artifact.pinned import PinnedFiles
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.loading import load_parts

WEIGHTS = "weights.fp32.safetensors"


def overwrite(file: Path, *, keep_times: bool = False) -> None:
    """Change the last bytes of a file in place, as `cp` and `rsync --inplace` do."""
    times = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(np.float32(1e3).tobytes())
    if keep_times:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "cpu-fp32.onnx"])
def test_a_change_in_place_is_noticed(own_artifact: Path, name: str, keep_times: bool) -> None:
    with Encoder.load(own_artifact, provider="mlas") as encoder:
        assert encoder.changed_files() == ""
        overwrite(own_artifact / name, keep_times=keep_times)
        assert encoder.changed_files() == (
            f"the file {name} of the artifact was changed in place: restore it, and load the model again"
        )
        assert encoder.changed_files() != ""


def test_a_file_that_is_restored_is_the_same_again(own_artifact: Path) -> None:
    file = own_artifact / WEIGHTS
    content = file.read_bytes()
    with Encoder.load(own_artifact, provider="mlas") as encoder:
        overwrite(file)
        assert encoder.changed_files()
        with file.open("r+b") as stream:
            stream.write(content)
        assert encoder.changed_files() == ""


def test_a_touched_a_replaced_and_a_removed_file_change_nothing(own_artifact: Path, tiny_artifact: Path) -> None:
    with Encoder.load(own_artifact, provider="mlas") as encoder:
        (own_artifact / WEIGHTS).touch()
        assert encoder.changed_files() == ""
        shutil.copy(tiny_artifact / WEIGHTS, own_artifact / "new")
        overwrite(own_artifact / "new")
        (own_artifact / "new").replace(own_artifact / WEIGHTS)
        (own_artifact / "tokenizer.json").unlink()
        assert encoder.changed_files() == ""


def test_the_usual_check_reads_no_file(own_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder.load(own_artifact, provider="mlas") as encoder:
        monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("a file is read"))
        assert encoder.changed_files() == ""


@pytest.mark.parametrize("how", ["in place", "exchanged", "exchanged and put back"])
def test_a_file_that_changes_while_it_is_loaded_is_rejected(
    own_artifact: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The libraries open files by their paths after the check of the digests: other bytes must not be loaded."""
    file = own_artifact / WEIGHTS
    load = load_parts

    def exchanged(*arguments: Any) -> Any:
        if how == "in place":
            overwrite(file)
            return load(*arguments)
        other = Path(shutil.copy(file, own_artifact / "other"))
        with safe_open(file, framework="np") as weights:
            assert len(weights.keys())
        file.rename(own_artifact / "good")
        other.rename(file)
        parts = load(*arguments)
        if how == "exchanged and put back":
            file.rename(own_artifact / "bad")
            (own_artifact / "good").rename(file)
        return parts

    monkeypatch.setattr(encoder_module, "load_parts", exchanged)
    with pytest.raises(ArtifactError, match=r"was changed or exchanged while it was loaded|does not reproduce"):
        Encoder.load(own_artifact, provider="mlas")


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_a_pipe_and_a_device_are_rejected_at_once(own_artifact: Path, name: str) -> None:
    (own_artifact / name).unlink()
    os.mkfifo(own_artifact / name)
    with pytest.raises(ArtifactError, match="is not a regular file"):
        Encoder.load(own_artifact)
    (own_artifact / name).unlink()
    (own_artifact / name).symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="is not a regular file"):
        Encoder.load(own_artifact)


def test_no_file_stays_open(own_artifact: Path) -> None:
    def open_files() -> list[str]:
        return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]

    with Encoder.load(own_artifact, provider="mlas"):
        assert sum(str(own_artifact) in name for name in open_files()) >= 4
    assert not [name for name in open_files() if str(own_artifact) in name]
    artifact = Artifact.open(own_artifact)
    overwrite(own_artifact / WEIGHTS)
    with pytest.raises(ArtifactError):
        PinnedFiles.open(own_artifact, {**artifact.manifest.files, "missing": artifact.manifest.files[WEIGHTS]})
    assert not [name for name in open_files() if str(own_artifact) in name]
