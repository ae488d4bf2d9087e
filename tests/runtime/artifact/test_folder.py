"""The artifact folder: damaged artifacts are rejected, and writing is atomic."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fletcher import Encoder
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.artifact.manifest import FileInfo, Verification
from fletcher.runtime.artifact.writing import describe_files, new_artifact, stamp
from fletcher.runtime.errors import ArtifactError, CanaryError, ChecksumError

VERIFIED = Verification(
    reference="a checkpoint",
    by="sentence-transformers 6.2.0 (SentenceTransformer)",
    time="2026-01-01T00:00:00Z",
    texts=3,
    tools={"torch": "2.13"},
    figures={"cpu-fp32": {"cosine_min": 1.0}},
)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest of an artifact, which then has no checksum, as an artifact of an earlier version."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum", None)
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def sign(folder: Path, name: str) -> None:
    """Write the size and digest of a changed file into the manifest."""
    data = (folder / name).read_bytes()
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))


def around(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


# Reading ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b'{"format": "\xff"}', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"format": 1}', "damaged .*card"),
        (b'{"format": 2, "what": "ever"}', "has artifact format 2, but this version of Fletcher reads format 1"),
    ],
)
def test_an_invalid_manifest_is_rejected(own_artifact: Path, content: bytes, message: str) -> None:
    (own_artifact / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(own_artifact)


def test_a_folder_that_is_not_an_artifact_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"a folder without fletcher\.json, so it is not an artifact: make one with"
    ):
        Artifact.open(tmp_path)
    with pytest.raises(ArtifactError, match="not a folder with"):
        Artifact.open(tmp_path / "missing")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ArtifactError, match="cannot be read: Not a directory"):
        Artifact.open(tmp_path / "file")


@pytest.mark.parametrize("name", ["tokenizer.json", "canary.safetensors", "cpu-fp32.onnx", "weights.fp32.safetensors"])
def test_a_file_without_a_digest_in_the_manifest_is_not_used(own_artifact: Path, name: str) -> None:
    edit(own_artifact, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(ArtifactError, match=f"no size and sha256 of {name}"):
        Artifact.open(own_artifact)


def test_a_file_outside_the_folder_is_not_read(own_artifact: Path) -> None:
    edit(own_artifact, lambda manifest: manifest["files"].update({"../x": {"size": 0, "sha256": ""}}))
    with pytest.raises(ArtifactError, match=r"names '\.\./x', which is not a plain file name"):
        Artifact.open(own_artifact)


@pytest.mark.parametrize("name", ["tokenizer.json", "canary.safetensors", "cpu-fp32.onnx", "weights.fp32.safetensors"])
def test_missing_longer_and_changed_files_are_refused_at_load(own_artifact: Path, name: str) -> None:
    file = own_artifact / name
    original = file.read_bytes()
    flipped = bytearray(original)
    flipped[len(original) // 2] ^= 1
    file.write_bytes(bytes(flipped))
    with pytest.raises(ChecksumError, match=f"{name} has sha256 "):
        Encoder.load(own_artifact)
    file.write_bytes(original[:-1])
    with pytest.raises(ChecksumError, match=f"{name} has {len(original) - 1} bytes, the manifest says {len(original)}"):
        Encoder.load(own_artifact)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read: No such file"):
        Encoder.load(own_artifact)
    file.mkdir()
    with pytest.raises((ArtifactError, ChecksumError), match=name):
        Encoder.load(own_artifact)


def test_a_variant_that_is_not_there_names_those_that_are(tiny_artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="no variant 'cuda-fp16': it has cpu-fp32"):
        Encoder.load(tiny_artifact, variant="cuda-fp16")


def test_the_canary_catches_weights_that_were_signed_anew(own_artifact: Path) -> None:
    file = own_artifact / "weights.fp32.safetensors"
    offset = int.from_bytes(file.read_bytes()[:8], "little") + 8
    weights = np.fromfile(file, np.float32, offset=offset)
    weights[-100:] += 0.5
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(weights.tobytes())
    sign(own_artifact, file.name)
    with pytest.raises(CanaryError, match="does not reproduce its canary: cosine"):
        Encoder.load(own_artifact)


def test_the_canary_catches_another_tokenizer(own_artifact: Path) -> None:
    file = own_artifact / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))
    sign(own_artifact, file.name)
    with pytest.raises(CanaryError, match="the tokenizer gives other ids"):
        Encoder.load(own_artifact)


def test_the_canary_catches_other_reference_vectors(own_artifact: Path) -> None:
    file = own_artifact / "canary.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    tensors["vectors"] = np.full_like(tensors["vectors"], np.nan)
    save_file(tensors, file, metadata=metadata)
    sign(own_artifact, file.name)
    with pytest.raises(CanaryError):
        Encoder.load(own_artifact)


# Digest and stamp ---------------------------------------------------------------------------------------------------------


def test_verified_is_said_only_of_a_comparison_with_the_references_own_packages(own_artifact: Path) -> None:
    stamp(own_artifact, msgspec.structs.replace(VERIFIED, by=""))  # as an earlier version wrote it
    manifest = Artifact.open(own_artifact).manifest
    assert manifest.status == "self-made" and manifest.proof.startswith("self-made: ")
    edit(own_artifact, lambda manifest: manifest.update(canary_reference="published"))
    assert Artifact.open(own_artifact).manifest.proof.startswith("published: ")
    manifest = stamp(own_artifact, VERIFIED).manifest
    assert manifest.proof == (
        "verified by sentence-transformers 6.2.0 (SentenceTransformer) on 3 texts, 2026-01-01T00:00:00Z (torch 2.13)"
    )


def test_the_digest_follows_files_and_card_and_no_stamp(own_artifact: Path) -> None:
    artifact = Artifact.open(own_artifact)
    digests = {artifact.digest}
    assert artifact.manifest.status == "self-made"
    stamped = stamp(own_artifact, VERIFIED, digest=artifact.digest)
    assert stamped.digest == artifact.digest
    assert stamped.manifest.status == "verified"
    assert stamped.variant().measured == {"cosine_min": 1.0}
    stamped.check_files()
    for name in artifact.manifest.files:
        edit(own_artifact, lambda manifest, name=name: manifest["files"][name].update(sha256="0" * 64))  # type: ignore[misc]
        digests.add(Artifact.open(own_artifact).digest)
    edit(own_artifact, lambda manifest: manifest["card"].update(prompts={"query": "q: "}))
    digests.add(Artifact.open(own_artifact).digest)
    edit(own_artifact, lambda manifest: manifest["card"].update(max_tokens=9))
    digests.add(Artifact.open(own_artifact).digest)
    assert len(digests) == len(artifact.manifest.files) + 3


def test_an_artifact_that_was_replaced_meanwhile_is_not_stamped(own_artifact: Path) -> None:
    before = (own_artifact / MANIFEST).read_bytes()
    with pytest.raises(ArtifactError, match="was replaced while it was verified"):
        stamp(own_artifact, VERIFIED, digest="0" * 64)
    assert (own_artifact / MANIFEST).read_bytes() == before
    assert around(own_artifact) == [own_artifact.name]


def test_a_folder_that_is_not_an_artifact_is_not_stamped_and_gets_no_lock(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="so it is not an artifact"):
        stamp(tmp_path / "nothing", VERIFIED)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_manifest_as_it_was(own_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in own_artifact.iterdir()}

    def write(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space"):
        stamp(own_artifact, VERIFIED)
    assert {file.name: file.read_bytes() for file in own_artifact.iterdir()} == before


# Writing ------------------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    with new_artifact(path) as folder:
        (folder / MANIFEST).write_text(text)
        assert stat_mode(folder) == 0o755


def stat_mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


def test_an_artifact_appears_complete_and_replaces_all_old_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "artifact"
    write(path, "first")
    (path / "old file").write_text("of the first")
    write(path, "second")
    assert [file.name for file in path.iterdir()] == [MANIFEST]
    assert (path / MANIFEST).read_text() == "second"
    assert around(path) == ["artifact"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_crash_leaves_only_the_old_artifact(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "artifact"
    for before in (False, True):
        if before:
            write(path, "first")
        with pytest.raises(type(error)), new_artifact(path) as folder:
            (folder / "half").write_text("written")
            raise error
        assert around(path) == (["artifact"] if before else [])
    assert (path / MANIFEST).read_text() == "first"


def test_an_empty_folder_is_taken_and_another_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    write(path, "first")
    (path / MANIFEST).unlink()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="exists and is not an artifact: it is not replaced"):
        write(path, "second")
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        write(file, "second")
    assert (path / "thesis.tex").read_text() == "years of work" and file.read_text() == "a file"
    assert around(path) == ["file", "folder"]


def test_a_folder_that_appeared_during_the_conversion_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(ArtifactError, match="is not an artifact"), new_artifact(path):
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    assert (path / "thesis.tex").read_text() == "years of work"
    assert around(path) == ["folder"]


def test_the_old_artifact_is_restored_if_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "artifact"
    write(path, "first")
    monkeypatch.setattr("fletcher.runtime.artifact.durable.exchange", lambda path, new: False)  # as on other systems
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if ".new." in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output"):
        write(path, "second")
    assert (path / MANIFEST).read_text() == "first"
    assert around(path) == ["artifact"]


def test_a_link_means_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "v1", tmp_path / "current"
    link.symlink_to(target)
    write(link, "first")
    write(link, "second")
    assert link.is_symlink() and (target / MANIFEST).read_text() == "second"
    assert around(target) == ["current", "v1"]


HOLD = """
import sys, time
from fletcher.runtime.artifact.writing import new_artifact
with new_artifact(sys.argv[1]) as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """Yield another process that is writing `tmp_path / "artifact"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "artifact")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_while_the_first_one_writes(tmp_path: Path, writer: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "artifact"
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        with pytest.raises(ArtifactError, match="another process is writing"):
            write(name, "second")
    write(tmp_path / "another", "may be written")
    assert not path.exists() and writer.poll() is None


def test_the_next_write_removes_the_leftovers_of_a_killed_writer(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "artifact"
    neighbor = tmp_path / ".artifact.new.mine.really"
    neighbor.mkdir()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(around(path)) == 3  # the lock, its folder, and the neighbor
    write(path, "second")
    assert around(path) == [neighbor.name, "artifact"]


RACE = """
import sys
from fletcher.runtime.artifact.writing import new_artifact
from fletcher.runtime.errors import ArtifactError
won = 0
while won < 30:
    try:
        with new_artifact(sys.argv[1]) as folder:
            (folder / "fletcher.json").write_text(sys.argv[2])
            (folder / "twin").write_text(sys.argv[2])
            won += 1
    except ArtifactError as error:
        assert "another process" in str(error), error
"""


def test_racing_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    command = [sys.executable, "-c", RACE, str(path)]
    racers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(3)]
    outcomes = [racer.communicate(timeout=120) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers), outcomes
    assert (path / MANIFEST).read_text() == (path / "twin").read_text()
    assert around(path) == ["artifact"]


def test_files_are_described_with_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / MANIFEST).write_bytes(b"{}")
    # The sha256 of "abc" is the first example of FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_files(tmp_path) == {"b": FileInfo(3, digest)}


def test_a_loaded_artifact_survives_its_replacement(own_artifact: Path, tiny_artifact: Path) -> None:
    """The weights are memory-mapped, so the old file must exist as long as a session uses it."""
    with Encoder.load(own_artifact) as encoder:
        before = encoder.embed(["a text"]).vectors
        with new_artifact(own_artifact) as folder:
            shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True)
        assert np.array_equal(encoder.embed(["a text"]).vectors, before)


def test_loading_leaves_no_file_open(tiny_artifact: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    Encoder.load(tiny_artifact).close()
    before = sum(1 for _ in descriptors.iterdir())
    for _ in range(5):
        Encoder.load(tiny_artifact).close()
    deadline = time.monotonic() + 10
    while (count := sum(1 for _ in descriptors.iterdir())) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count <= before
