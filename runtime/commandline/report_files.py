"""Files of reports: JSON with one value on each line, or a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ..artifact.durable import new_file
from ..errors import InputError
from ..os_errors import explain
from .plots import to_svg

__all__ = ["check_reports", "check_suffixes", "to_json", "write_report"]


def check_suffixes(files: Sequence[Path]) -> None:
    """Check that reports without plots of matplotlib can be written as these files.

    Raises:
        InputError: the suffix of a file is neither .html nor .json.
    """
    for file in files:
        if file.suffix not in (".html", ".json"):
            raise InputError(f"a report cannot be written as {file.name}: use the suffix .html or .json")


def check_reports(files: Sequence[Path]) -> None:
    """Check that reports can be written as these files.

    Raises:
        InputError: the suffix of a file is neither .html nor .json.
        MissingPackageError: a file is a page, and matplotlib is not installed.
    """
    check_suffixes(files)
    if any(file.suffix == ".html" for file in files):
        to_svg("check", lambda axes: None)


def to_json(report: object) -> bytes:
    """Return a whole report with one value on each line; infinities are null, and paths are texts."""
    return msgspec.json.format(msgspec.json.encode(report, enc_hook=str), indent=2) + b"\n"


def write_report(report: object, file: Path, to_html: Callable[[], str]) -> None:
    """Write a report by the file's suffix. A missing folder is created, and an older file is replaced as a whole.

    Args:
        report: the report.
        file: a file that `check_reports` accepts.
        to_html: makes the page.

    Raises:
        InputError: the file cannot be written.
    """
    content = to_html().encode() if file.suffix == ".html" else to_json(report)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as stream:
            stream.write(content)
    except OSError as error:
        raise InputError(f"the report {file} cannot be written: {explain(error)}") from error
