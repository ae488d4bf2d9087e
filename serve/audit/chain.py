"""The chain of an audit log: each line has its number first, and the SHA-256 of the line before (with its newline) last.

{"seq":7,"time":"2026-11-30T08:00:00.000000Z","event":"request",…,"prev":"<64 hexadecimal digits>"}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fletcher.runtime.errors import InputError

__all__ = ["FIRST", "Head", "head_of", "read_head", "seal"]

#: Form of a line.
LINE: Final = re.compile(rb'\{"seq":(\d{1,18}),.*"prev":"([0-9a-f]{64})"\}\n', re.DOTALL)

#: Form of a head on the command line and in the log of the server.
HEAD: Final = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain.

    Attributes:
        seq: number of the last line, from 1; 0 for a chain without lines.
        digest: SHA-256 of the last line, hexadecimal.
    """

    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"


#: Head of a chain without lines.
FIRST: Final = Head(0, "0" * 64)


def seal(bodies: Sequence[bytes], head: Head) -> tuple[bytes, Head]:
    """Return lines that continue a chain, and the new head.

    Args:
        bodies: contents of the lines, without braces and newlines.
        head: the present head.
    """
    lines = []
    seq, digest = head.seq, head.digest
    for body in bodies:
        seq += 1
        line = b'{"seq":%d,%b,"prev":"%b"}\n' % (seq, body, digest.encode())
        digest = hashlib.sha256(line).hexdigest()
        lines.append(line)
    return b"".join(lines), Head(seq, digest)


def head_of(line: bytes) -> tuple[Head, str]:
    """Return the head after a line, and the digest of the line before.

    Raises:
        InputError: the line has another form.
    """
    match = LINE.fullmatch(line)
    if match is None:
        raise InputError("the line is not one of an audit log")
    return Head(int(match[1]), hashlib.sha256(line).hexdigest()), match[2].decode()


def read_head(text: str) -> Head:
    """Return a head from its text `SEQ:SHA256`.

    Raises:
        InputError: the text has another form.
    """
    match = HEAD.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not a head of an audit log: it is SEQ:SHA256, as the log of the server has it")
    return Head(int(match[1]), match[2])
