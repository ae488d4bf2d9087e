"""`read_rows`: rows of jsonl, csv, tsv, parquet, and HuggingFace data sets on disk. It knows no column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.os_errors import explain

__all__ = ["Row", "read_rows"]

#: Place of a row for messages, and its values by column.
Row = tuple[str, Mapping[str, Any]]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


def read_rows(path: Path) -> list[Row]:
    """Read all rows.

    Args:
        path: a file, by its suffix; or a folder that `Dataset.save_to_disk` wrote, of whose splits `train` is read. A `.txt`
            has a column `text`. An empty cell of a `.csv` or `.tsv` is None.

    Raises:
        InputError: the file cannot be read, or has another format.
        MissingPackageError: the package for the format is not installed.
    """
    try:
        if path.is_dir():
            return list(_data_set(path))
        if path.suffix in (".jsonl", ".json"):
            return list(_json_lines(path))
        if path.suffix in (".csv", ".tsv"):
            return list(_csv(path))
        if path.suffix == ".parquet":
            return list(_parquet(path))
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8").removeprefix("\ufeff").split("\n")
            return [(f"{path}, line {number}", {"text": line}) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): convert the file first") from error
    raise InputError(f"{path} has an unknown format: use {', '.join(SUFFIXES)}, or a folder of `Dataset.save_to_disk`")


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                yield place, decode_json(line, dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{place}: {error}. Each line must be an object") from error


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(f"{place} has another number of columns than the first line")
                yield (
                    place,
                    {column: value or None for column, value in row.items()},
                )  # csv has no other way to leave out
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "train", "reading parquet") from None
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error


def _data_set(path: Path) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise MissingPackageError("datasets", "train", "reading a HuggingFace data set") from None
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path} is not a data set of `Dataset.save_to_disk`: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise InputError(f"{path} has the splits {', '.join(found)}, and no train: give the folder of one split")
        found = found["train"]
    for number, row in enumerate(found, 1):
        yield f"{path}, row {number}", row
