"""`Mutant`: a base checkpoint with a few edits of its files, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from safetensors.numpy import load, save

__all__ = [
    "ABSENT",
    "Edit",
    "Files",
    "Json",
    "Kind",
    "Mutant",
    "Place",
    "WriteFile",
    "WriteKey",
    "WriteTensors",
    "apply",
    "parse",
    "write_folder",
]

#: Files of a folder by relative path.
Files = Mapping[str, bytes]
Json = Any
Place = tuple[str | int, ...]

#: Kinds of mutants; the sample of `make test` has mutants of each kind.
Kind = Literal[
    "remove key",
    "change value",
    "wrong type",
    "add key",
    "remove file",
    "damage file",
    "add file",
    "exchange file",
    "contradict",
    "add token",
    "modules",
    "weights",
]

#: Value of a key that is removed.
ABSENT: Final = "\0absent"


@dataclass(frozen=True, slots=True)
class WriteKey:
    """`WriteKey`: change of one value of a JSON file; the file is created if it does not exist.

    Attributes:
        file: relative path.
        place: keys and indices from the root to the value.
        value: new value, or `ABSENT`.
    """

    file: str
    place: Place
    value: Json


@dataclass(frozen=True, slots=True)
class WriteFile:
    """`WriteFile`: new content of a file.

    Attributes:
        file: relative path.
        data: content; None removes the file.
    """

    file: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class WriteTensors:
    """`WriteTensors`: change of the tensors of a safetensors file.

    Attributes:
        file: relative path.
        drop: names of tensors that are removed.
        rename: prefixes of names, and their replacements.
        copy: names of new tensors, each with the name of the tensor that it copies.
        transpose: names of tensors that are transposed.
        half: whether the tensors are stored in float16.
    """

    file: str
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    copy: tuple[tuple[str, str], ...] = ()
    transpose: tuple[str, ...] = ()
    half: bool = False


Edit = WriteKey | WriteFile | WriteTensors


@dataclass(frozen=True, slots=True)
class Mutant:
    """`Mutant`: a base checkpoint with changes.

    Attributes:
        base: key of `BASES`.
        kind: kind of the mutation.
        name: description, unique within the base.
        edits: changes of the base's files.
    """

    base: str
    kind: Kind
    name: str
    edits: tuple[Edit, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of the files, keys and tensors that the mutant changes, and text of the new values, such as tokens."""
        words: set[str] = set()
        for edit in self.edits:
            words |= {part for part in edit.file.split("/") if part}
            if isinstance(edit, WriteKey):
                words |= {key for key in edit.place if isinstance(key, str)} | set(_strings(edit.value))
            elif isinstance(edit, WriteTensors):
                words |= {*edit.drop, *edit.transpose, *(name for pair in (*edit.rename, *edit.copy) for name in pair)}
        return frozenset(word for word in words if len(word) > 2 and not word.isdigit())

    def __str__(self) -> str:
        return f"{self.base}: {self.name}"


def _strings(value: Json) -> Iterator[str]:
    """Yield the text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def parse(data: bytes) -> Json:
    """Return the content of a JSON file."""
    return json.loads(data)


def apply(files: Files, edits: Sequence[Edit]) -> dict[str, bytes]:
    """Return the files of a mutant."""
    result = dict(files)
    for edit in edits:
        if isinstance(edit, WriteFile):
            if edit.data is None:
                result.pop(edit.file, None)
            else:
                result[edit.file] = edit.data
        elif isinstance(edit, WriteTensors):
            result[edit.file] = _edit_tensors(result[edit.file], edit)
        else:
            content = parse(result.get(edit.file, b"{}"))
            content = _write(content, edit.place, edit.value)
            result[edit.file] = json.dumps(content, indent=2).encode()
    return result


def _write(content: Json, place: Place, value: Json) -> Json:
    if not place:
        return value
    target = content
    for key in place[:-1]:
        target = target[key]
    last = place[-1]
    if value == ABSENT and isinstance(value, str):
        del target[last]
    elif isinstance(target, list) and last == len(target):
        target.append(value)
    else:
        target[last] = value
    return content


def _edit_tensors(data: bytes, edit: WriteTensors) -> bytes:
    tensors = {name: tensor for name, tensor in load(data).items() if name not in edit.drop}
    for name, source in edit.copy:
        tensors[name] = tensors[source].copy()
    for name in edit.transpose:
        tensors[name] = np.ascontiguousarray(tensors[name].T)
    for old, new in edit.rename:
        tensors = {
            (new + name[len(old) :] if name.startswith(old) else name): tensor for name, tensor in tensors.items()
        }
    if edit.half:
        tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    return save(tensors, metadata={"format": "pt"})


def write_folder(files: Files, folder: Path) -> None:
    """Write files into an empty folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
