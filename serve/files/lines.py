"""Texts from files of lines: txt, jsonl and csv. Errors name the line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

from .chunks import CHUNK_CHARACTERS, TextChunk
from .json_types import JsonKinds

__all__ = ["Bad", "Row", "chunk_rows", "count_lines", "read_csv", "read_jsonl", "read_txt", "refuse"]

#: A text, and the other values of its row by key.
Row = tuple[str, dict[str, Any]]

#: Function that is called for a row that cannot be used, with the error and the bytes of the row in the file. If it raises,
#: the reading ends.
Bad = Callable[[InputError, bytes], None]


def refuse(error: InputError, row: bytes) -> None:
    """Raise the error, so that the first row that cannot be used ends the reading."""
    raise error


def count_lines(file: IO[bytes]) -> int:
    """Return the number of lines of a file, and seek to its start. The last line may have no line feed."""
    count, last = 0, b"\n"
    while block := file.read(2**20):
        count += block.count(b"\n")
        last = block[-1:]
    file.seek(0)
    return count + (last != b"\n")


def _lines(file: Iterable[bytes], name: str, bad: Bad) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers from 1, without LF or CRLF and without a byte order mark."""
    for number, raw in enumerate(file, start=1):
        line = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw.endswith(b"\n") else raw
        try:
            text = _decode(line, name, number)
        except InputError as error:
            bad(error, line)
            continue
        yield number, text


def _decode(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; "
            "convert the file to UTF-8 first, for example with iconv"
        ) from error


def read_txt(file: Iterable[bytes], name: str, bad: Bad = refuse) -> Iterator[Row]:
    """Yield each line as a text. An empty line is an empty text.

    Args:
        file: lines of the file.
        name: name of the file, for messages.
        bad: called for each line that is not UTF-8.

    Raises:
        InputError: a line is not UTF-8, and `bad` raises the error.
    """
    for _, line in _lines(file, name, bad):
        yield line, {}


def read_jsonl(file: Iterable[bytes], name: str, column: str, bad: Bad = refuse) -> Iterator[Row]:
    """Yield the JSON object of each line as a row. Skip blank lines.

    Args:
        file: lines of the file.
        name: name of the file, for messages.
        column: key with the text.
        bad: called for each line that cannot be used.

    Raises:
        InputError: a line is not UTF-8, is not an object or has no string under `column`, and `bad` raises the error.
    """
    for number, line in _lines(file, name, bad):
        if not line.strip():
            continue
        try:
            row = _object(line, name, number, column)
        except InputError as error:
            bad(error, line.encode())
            continue
        yield row


def _object(line: str, name: str, number: int, column: str) -> Row:
    """Return a line of JSON as a row."""
    try:
        row = decode_json(line, object)
    except msgspec.DecodeError as error:
        # msgspec reports an escape such as \\ud800 without its second half as truncated data.
        hint = "; does it hold half of a surrogate pair (\\ud8xx)?" if "\\ud" in line.lower() else ""
        raise InputError(f"{name}, line {number}: not a JSON object: {error}{hint}") from error
    if not isinstance(row, dict):
        raise InputError(f'{name}, line {number}: a JSON object such as {{"{column}": "…"}} is expected')
    if column not in row:
        keys = ", ".join(map(repr, row)) or "no key"
        raise InputError(f"{name}, line {number}: no key {column!r}; it has {keys}. Name the key with --column")
    text = row.pop(column)
    if not isinstance(text, str):
        raise InputError(f"{name}, line {number}: {column!r} is {_json_type(text)}, and must be a string")
    return text, row


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", dict: "an object", list: "a list"}.get(type(value), "a number")


def read_csv(file: Iterable[bytes], name: str, column: str, bad: Bad = refuse) -> Iterator[Row]:
    """Yield each record as a row. The first line names the columns. Every value stays a string: "007" is not 7.

    Args:
        file: lines of the file.
        name: name of the file, for messages.
        column: column with the text.
        bad: called for each record that has more or fewer fields than the first line.

    Raises:
        InputError: a line is not UTF-8, quotes are not balanced, there is no column `column`, or `bad` raises the error.
    """
    # The default limit of 128 KiB for a field guards against unbalanced quotes, but texts may be longer.
    csv.field_size_limit(2**31 - 1)
    lines = (_decode(raw, name, number) for number, raw in enumerate(file, start=1))
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{name}: the file is empty; its first line must name the columns")
        if column not in header:
            raise InputError(
                f"{name}: no column {column!r}; it has {', '.join(map(repr, header))}. Name it with --column"
            )
        if len(set(header)) != len(header):
            raise InputError(f"{name}: two columns have the same name: {', '.join(map(repr, header))}")
        place = header.index(column)
        for row in reader:
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                message = f"{name}, line {reader.line_num}: {len(row)} fields, and the header has {len(header)}"
                bad(InputError(message), msgspec.json.encode(row))
                continue
            yield row[place], {key: row[index] for index, key in enumerate(header) if index != place}
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV: {error}") from error


def chunk_rows(rows: Iterable[Row], kinds: JsonKinds, chunk_texts: int) -> Iterator[TextChunk]:
    """Yield chunks of at most `chunk_texts` rows."""
    first_row, size = 0, 0
    texts: list[str] = []
    others: list[dict[str, Any]] = []
    for text, other in rows:
        texts.append(text)
        others.append(other)
        size += len(text)
        if len(texts) == chunk_texts or size >= CHUNK_CHARACTERS:
            yield TextChunk(first_row, texts, kinds.batch(others))
            first_row, size, texts, others = first_row + len(texts), 0, [], []
    if texts:
        yield TextChunk(first_row, texts, kinds.batch(others))
