"""Files of texts as a stream of chunks: txt, jsonl, csv, parquet, Arrow. Knows nothing of models or vectors.

Memory is bounded by a chunk, whatever the file's size. Everything besides the text is carried along: keys, columns.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, Literal, get_args
from urllib.parse import urlsplit

import pyarrow as pa

from fletcher.runtime.errors import InputError

from .chunks import CHUNK_TEXTS, TextChunk, TextSource, refuse_reserved
from .columns import open_arrow, open_parquet
from .inputs import is_url, open_input
from .json_types import JsonKinds
from .lines import Bad, chunk_rows, count_lines, read_csv, read_jsonl, read_txt, refuse

__all__ = ["STDIN", "TextChunk", "TextFormat", "TextSource", "open_texts"]

TextFormat = Literal["txt", "jsonl", "csv", "parquet", "arrow"]

#: The path that means standard input.
STDIN: Final = "-"

_FORMATS: Final[dict[str, TextFormat]] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


@contextmanager
def open_texts(
    path: str,
    *,
    text_format: str | None = None,
    column: str = "text",
    chunk_texts: int = CHUNK_TEXTS,
    bad: Bad = refuse,
) -> Iterator[TextSource]:
    """Opens a file of texts; errors of its content may come only while the chunks are read.

    Args:
        path: the file, a URL of one (s3://, gs://, hdfs://, file://: what pyarrow's filesystems open), or "-" for standard
            input (txt, jsonl or csv).
        text_format: one of `TextFormat`; None goes by the file's suffix, and standard input is then txt.
        column: the key or column that holds the text; a txt file has none.
        chunk_texts: most texts in a chunk.
        bad: told of rows that cannot be used; without it the first one ends the reading.

    Raises:
        InputError: an unknown format, a missing column, or content that is no text; names the file and the line or row.
        OSError: the file cannot be read.
    """
    if chunk_texts < 1:
        raise InputError(f"a chunk of {chunk_texts} texts was asked for; it needs at least 1")
    chosen = _format_of(path) if text_format is None else _named_format(text_format)
    with ExitStack() as stack:
        if chosen in ("parquet", "arrow"):
            if path == STDIN:
                raise InputError(f"standard input can be txt, jsonl or csv, not {chosen}: give a file")
            opener = open_parquet if chosen == "parquet" else open_arrow
            yield opener(path, stack, column, chunk_texts, bad)
            return
        name = "standard input" if path == STDIN else path
        if chosen == "txt":
            file = sys.stdin.buffer if path == STDIN else stack.enter_context(open_input(path))
            total = None if path == STDIN else count_lines(file)
            yield TextSource(
                name, total, pa.schema([]), chunk_rows(read_txt(file, name, bad), JsonKinds(), chunk_texts)
            )
            return
        # A first pass over the file learns the other columns' types and the number of rows: a type guessed from the first
        # chunk would fail on the millionth row.
        file = stack.enter_context(_open_twice(path))
        read = read_jsonl if chosen == "jsonl" else read_csv
        kinds, total = JsonKinds(), 0
        # The second pass tells of bad rows; here they end the reading or are passed over.
        for _, others in read(file, name, column, refuse if bad is refuse else lambda error, row: None):
            kinds.see(others)
            total += 1
        refuse_reserved(name, kinds.names, column)
        file.seek(0)
        yield TextSource(name, total, kinds.schema(), chunk_rows(read(file, name, column, bad), kinds, chunk_texts))


def _format_of(path: str) -> TextFormat:
    if path == STDIN:
        return "txt"
    suffix = Path(urlsplit(path).path if is_url(path) else path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{path}: the suffix {suffix!r} names no format of texts; rename the file to one of {', '.join(_FORMATS)}, "
            f"or say with --format which it is: {', '.join(get_args(TextFormat))}"
        )
    return _FORMATS[suffix]


def _named_format(name: str) -> TextFormat:
    for known in get_args(TextFormat):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"the format {name!r} is unknown; use one of {', '.join(get_args(TextFormat))}")


@contextmanager
def _open_twice(path: str) -> Iterator[IO[bytes]]:
    """A file that can be read again; standard input goes to disk first, so that memory stays bounded."""
    if path != STDIN:
        with open_input(path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        yield spool
