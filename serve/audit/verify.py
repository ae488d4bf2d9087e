"""`verify`: the check of an audit log: its chain from the first line to the last, and heads that were kept elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from .chain import FIRST, Head, head_of
from .log_file import rotated_files

__all__ = ["Findings", "files_of", "verify"]

#: Largest number of faults that are listed.
MOST_FAULTS: Final = 20

#: Characters of the end of a line: `"prev":"`, 64 digits, `"}` and a newline.
DIGEST: Final = slice(-67, -3)


@dataclass(slots=True)
class Findings:
    """Result of a check.

    Attributes:
        lines: number of lines.
        first: number of the first line; 0 without lines.
        head: head after the last line.
        faults: sentences about what is wrong, at most 20; empty for a log as it was written.
    """

    lines: int = 0
    first: int = 0
    head: Head = FIRST
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str) -> None:
        """Add a fault, unless there are many."""
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)


def files_of(path: Path) -> list[Path]:
    """Return the files of a log in the order of their lines: those that were rotated, and the present one."""
    return [*rotated_files(path), path]


def verify(paths: Sequence[Path], heads: Sequence[Head] = ()) -> Findings:
    """Check a log.

    A changed, missing, added or reordered line breaks the chain. The chain alone shows neither lines that are missing at the
    end nor a log that was written anew from some line on: heads that were kept elsewhere do.

    Args:
        paths: files in the order of their lines.
        heads: heads that the log must have had.

    Raises:
        InputError: a file cannot be read.
    """
    findings = Findings()
    wanted = {head.seq: head.digest for head in heads}
    seq, digest = -1, ""
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            if seq >= 0 and line[DIGEST] == digest.encode() and line.startswith(b'{"seq":%d,' % (seq + 1)):
                seq += 1
                digest = hashlib.sha256(line).hexdigest()
            else:
                head = _join(findings, line, Head(seq, digest), f"{path}, line {number}")
                seq, digest = head.seq, head.digest
            if seq in wanted and wanted.pop(seq) != digest:
                findings.add(f"{path}, line {number}: line {seq} is not the one of the head that was kept")
            findings.lines += 1
    if findings.lines:
        findings.head = Head(seq, digest)
    for missing in sorted(wanted):
        place = "after the end" if missing > findings.head.seq else "before the beginning"
        findings.add(f"line {missing} of a head that was kept is missing {place} of the log")
    return findings


def _join(findings: Findings, line: bytes, before: Head, place: str) -> Head:
    """Return the head after a line that does not continue the chain, and add the reason to the findings.

    Args:
        findings: the findings so far.
        line: the line.
        before: head before the line; its number is -1 before the first line.
        place: file and line, for the reason.
    """
    try:
        head, prev = head_of(line)
        decode_json(line, object)
    except (InputError, msgspec.MsgspecError):
        findings.add(f"{place}: this is not a line of an audit log: it was changed or cut off")
        return Head(before.seq + 1, hashlib.sha256(line).hexdigest())
    if before.seq < 0:
        findings.first = head.seq
        if head.seq == 1 and prev != FIRST.digest:
            findings.add(f"{place}: line 1 was changed")
        return head
    expected = before.seq + 1
    if head.seq > expected:
        findings.add(f"{place}: lines {expected} to {head.seq - 1} are missing before line {head.seq}")
    elif head.seq < expected:
        findings.add(
            f"{place}: line {head.seq} comes after line {before.seq}: the order was changed, or a line was added"
        )
    else:
        findings.add(f"{place}: line {before.seq} was changed: line {head.seq} has the hash of another one")
    return head


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
