"""Files of mining: a corpus that is read in chunks and by offsets, and the mined tuples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

__all__ = ["CorpusFile", "Mined", "fingerprint"]

#: Documents of a chunk.
CHUNK = 8192

#: Suffixes of files whose lines are not texts.
NOT_LINES = (".csv", ".tsv", ".json", ".parquet")


class Mined(msgspec.Struct, frozen=True, omit_defaults=True):
    """`Mined`: a line of the output.

    Attributes:
        query: the query.
        positive: the text that belongs to it.
        negatives: texts that do not belong to it, the hardest first.
        scores: scores of the positive and of the negatives.
        group: group of the pair, whose examples stay on one side of a split; None without groups.
    """

    query: str
    positive: str
    negatives: list[str]
    scores: list[float]
    group: str | None = None


class _Document(msgspec.Struct, frozen=True):
    text: str
    title: str | None = None


def fingerprint(text: str) -> int:
    """Return a hash of a text in 64 bits: among a billion different texts, two share one with a probability of 3 %."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """`CorpusFile`: texts of a file that may be larger than memory: jsonl with `text` and optional `title`, or lines.

    Attributes:
        path: the file.
    """

    path: Path

    def chunks(self) -> Iterator[list[tuple[int, str]]]:
        """Yield chunks of texts with their offsets in bytes. Empty texts are left out.

        Raises:
            InputError: the file has another format, cannot be read, or a line has no text.
        """
        if self.path.suffix in NOT_LINES:
            raise InputError(
                f"{self.path} is a {self.path.suffix} file, whose lines are not texts: write .jsonl with text, or a text "
                "on each line"
            )
        chunk: list[tuple[int, str]] = []
        for number, (offset, line) in enumerate(_lines(self.path), 1):
            text = self._text(line, number)
            if text.strip():
                chunk.append((offset, text))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def texts_at(self, offsets: Sequence[int]) -> list[str]:
        """Return the texts at some offsets.

        Raises:
            InputError: the file cannot be read.
        """
        texts = []
        with _open(self.path) as stream:
            for offset in offsets:
                stream.seek(offset)
                texts.append(self._text(stream.readline(), None))
        return texts

    def _text(self, line: bytes, number: int | None) -> str:
        try:
            if self.path.suffix != ".jsonl":
                return line.decode().rstrip("\r\n")
            if not line.strip():
                return ""
            document = decode_json(line, _Document)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = "" if number is None else f", line {number}"
            raise InputError(f"{self.path}{place}: {error}") from error
        return f"{document.title} {document.text}" if document.title else document.text


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with _open(path) as stream:
        for line in stream:
            yield offset, line
            offset += len(line)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
