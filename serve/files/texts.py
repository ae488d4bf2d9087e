"""Files of texts as a stream of chunks: txt, jsonl, csv, parquet and Arrow. The module does not use models or vectors.

The use of memory depends on the size of a chunk, not on the size of the file. Chunks also have the other keys or columns.
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
    """Open a file of texts. Errors in its content may be raised later, while the chunks are read.

    Args:
        path: path of the file, a URL that pyarrow's file systems open (s3://, gs://, hdfs://, file://), or "-" for standard
            input (txt, jsonl or csv).
        text_format: one of `TextFormat`; None takes it from the suffix of the file, and txt for standard input.
        column: key or column with the text; a txt file has none.
        chunk_texts: largest number of texts in a chunk.
        bad: called for each row that cannot be used. By default, the first such row raises an error.

    Raises:
        InputError: the format is unknown, the column is missing, or the content is not text. The message names the file and
            the line or row.
        OSError: the file cannot be read.
    """
    if chunk_texts < 1:
        raise InputError(f"the number of texts in a chunk is {chunk_texts}; it must be at least 1")
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
        # The first pass over the file finds the types of the other columns and the number of rows. A type from the first
        # chunk alone could be wrong for a later row.
        file = stack.enter_context(_open_twice(path))
        read = read_jsonl if chosen == "jsonl" else read_csv
        kinds, total = JsonKinds(), 0
        # The second pass calls `bad`. In this pass, bad rows end the reading or are skipped.
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
            f"{path}: the suffix {suffix!r} is not supported for texts; rename the file to one of {', '.join(_FORMATS)}, "
            f"or name its format with --format: {', '.join(get_args(TextFormat))}"
        )
    return _FORMATS[suffix]


def _named_format(name: str) -> TextFormat:
    for choice in get_args(TextFormat):
        if name == choice:
            return choice  # type: ignore[no-any-return]
    raise InputError(f"the format {name!r} is unknown; use one of {', '.join(get_args(TextFormat))}")


@contextmanager
def _open_twice(path: str) -> Iterator[IO[bytes]]:
    """Open a file that can be read twice. Standard input is first copied to disk, not to memory."""
    if path != STDIN:
        with open_input(path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        yield spool
