"""States that a folder may have after a crash: replays of a record of the calls that changed its files.

A kill of the process keeps every call that was made. A power cut keeps what `fsync` asked for: the data of a file that was
synced, and the names in a folder that was synced. What came later may be lost: all of it, the data of a file or a part of
it, or one of several changes of names. The model is that of journaling file systems, with the freedom that POSIX gives them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

__all__ = ["Call", "Data", "States", "read_record"]

#: Fate of the data that was written and not synced: it is there, it is gone, only its first half is there, or the file has
#: its length and zeros.
Data = Literal["all", "none", "half", "zeros"]

#: Calls that change names: creation, rename, exchange of two names, removal, creation of a folder.
NAMES = "crxum"

HEAD = struct.Struct("<cIIq")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that changed a file.

    Attributes:
        kind: a letter of `NAMES`, `w` for a write, `t` for a change of the length, `s` for a sync, `k` for a mark.
        path: the file.
        data: bytes that were written, or the other path of a rename.
        number: place of a write, or the new length.
    """

    kind: str
    path: str
    data: bytes
    number: int


def read_record(file: Path) -> list[Call]:
    """Return the calls of a record that the library wrote."""
    content, calls, place = file.read_bytes(), [], 0
    while place < len(content):
        kind, first, second, number = HEAD.unpack_from(content, place)
        place += HEAD.size
        path, data = content[place : place + first], content[place + first : place + first + second]
        calls.append(Call(kind.decode(), path.decode(), data, number))
        place += first + second
    return calls


@dataclass
class _File:
    """Content of a file: what is durable, and the calls after that."""

    durable: bytearray
    later: list[Call] = field(default_factory=list)

    def content(self, fate: Data) -> bytes:
        """Return the content after a crash."""
        whole = bytearray(self.durable)
        if fate == "none":
            return bytes(whole)
        written = sum(len(call.data) for call in self.later)
        left = written if fate != "half" else written // 2
        for call in self.later:
            if call.kind == "t":
                del whole[call.number :]
                whole.extend(bytes(call.number - len(whole)))
                continue
            data = call.data[: max(left, 0)] if fate != "zeros" else bytes(len(call.data))
            left -= len(call.data)
            if len(whole) < call.number:
                whole.extend(bytes(call.number - len(whole)))
            whole[call.number : call.number + len(data)] = data
        return bytes(whole)


class _Tree:
    """Files by their paths; None is a folder."""

    def __init__(self, start: Path, root: str) -> None:
        self.entries: dict[str, _File | None] = {root: None}
        for each in sorted(start.rglob("*")):
            path = f"{root}/{each.relative_to(start)}"
            self.entries[path] = None if each.is_dir() else _File(bytearray(each.read_bytes()))

    def _move(self, source: str, target: str) -> dict[str, _File | None]:
        taken = {path: self.entries.pop(path) for path in list(self.entries) if _within(path, source)}
        return {target + path[len(source) :]: entry for path, entry in taken.items()}

    def apply(self, call: Call, files: dict[int, _File], number: int) -> None:
        """Apply a change of names. Files keep their identity by the number of the call that made them."""
        if call.kind == "c":
            self.entries[call.path] = files.setdefault(number, _File(bytearray()))
        elif call.kind == "m":
            self.entries[call.path] = None
        elif call.kind == "u":
            for path in [path for path in self.entries if _within(path, call.path)]:
                del self.entries[path]
        elif call.kind == "r":
            moved = self._move(call.path, call.data.decode())
            self._drop(call.data.decode())
            self.entries.update(moved)
        else:
            first, second = call.path, call.data.decode()
            there, back = self._move(first, second), self._move(second, first)
            self.entries.update({**there, **back})

    def _drop(self, target: str) -> None:
        for path in [path for path in self.entries if _within(path, target)]:
            del self.entries[path]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


@dataclass(frozen=True, slots=True)
class States:
    """States of a folder after crashes.

    Attributes:
        calls: calls of the record.
        start: copy of the folder before the first call.
        root: path of the folder in the record.
    """

    calls: list[Call]
    start: Path
    root: str

    def write(self, target: Path, end: int, fate: Data = "all", lost: frozenset[int] = frozenset()) -> None:
        """Write a state into a new folder.

        Args:
            target: the folder.
            end: number of calls before the crash.
            fate: fate of the data that was not synced.
            lost: numbers of the changes of names that are lost.
        """
        now, after = _Tree(self.start, self.root), _Tree(self.start, self.root)
        after.entries = dict(now.entries)  # the files are the same, so that their data is
        files: dict[int, _File] = {}
        opened: dict[str, _File] = {path: each for path, each in now.entries.items() if each is not None}
        for number, call in enumerate(self.calls[:end]):
            if call.kind in NAMES:
                now.apply(call, files, number)
                if number not in lost:
                    after.apply(call, files, number)
                if call.kind == "c":
                    opened[call.path] = files[number]
            elif call.kind in "wt":
                # A truncation when a file is opened and a write name the path under which it was opened.
                file = now.entries.get(call.path) or opened[call.path]
                file.later.append(call)
            elif call.kind == "s" and (synced := now.entries.get(call.path) or opened.get(call.path)) is not None:
                synced.durable = bytearray(synced.content("all"))
                synced.later.clear()
        for path, each in sorted(after.entries.items()):
            place = target / PurePosixPath(path).relative_to(self.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            if each is None:
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(each.content(fate))
                place.chmod(0o600)

    def losable(self, end: int) -> list[int]:
        """Return the numbers of the changes of names that a power cut may undo: their folder was not synced since."""
        unsafe = []
        for number, call in enumerate(self.calls[:end]):
            if call.kind not in NAMES:
                continue
            paths = {call.path, call.data.decode()} if call.kind in "rx" else {call.path}
            folders = {path.rpartition("/")[0] for path in paths}
            # A file that is synced has its name, too: Linux's file systems write the creation with it.
            synced = {later.path for later in self.calls[number:end] if later.kind == "s"}
            if not (folders <= synced or (call.kind == "c" and call.path in synced)):
                unsafe.append(number)
        return unsafe

    def after_power_cuts(self) -> Iterator[tuple[int, Data, frozenset[int]]]:
        """Yield the arguments of `write` for states after a power cut: ends, fates of data, and lost changes of names.

        Of the changes of names that may be lost, all, none, each beginning's rest, and each one alone are lost.
        """
        for end in range(len(self.calls) + 1):
            unsafe = self.losable(end)
            losses = {frozenset(unsafe[first:]) for first in range(len(unsafe) + 1)}
            losses |= {frozenset([one]) for one in unsafe if self._independent(one, end)}
            fates: tuple[Data, ...] = ("all", "none", "half", "zeros")
            for lost in sorted(losses, key=sorted):
                for fate in fates:
                    yield end, fate, lost

    def _independent(self, number: int, end: int) -> bool:
        """Return whether no later change of names needs this one."""
        call = self.calls[number]
        made = call.data.decode() if call.kind == "r" else call.path
        others = (later for later in self.calls[number + 1 : end] if later.kind in NAMES)
        return not any(
            _within(path, made)
            for later in others
            for path in (later.path, later.data.decode() if later.kind in "rx" else "")
        )
