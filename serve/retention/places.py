"""`PLACES`: everything that Fletcher writes, where, and for how many days it stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..audit.log_file import rotated_files

__all__ = ["PLACES", "Folders", "Place"]

#: Days after which what an ended process left unfinished is removed.
UNFINISHED_DAYS: Final = 1.0

#: Temporary names of exports, builds and downloads: `.NAME.new.12345678`, `.NAME.old.12345678`, `.unpack-12345678`, `.pip-…`.
UNFINISHED: Final = re.compile(r"\..+\.(?:new|old|removed)\.\w{8}|\.(?:unpack|pip)-\w{8}")

#: End of the names of files with rows that an ingest job could not use.
FAILED_ROWS: Final = ".failed.jsonl"

#: Folder of downloaded artifacts in the cache.
REMOTE: Final = "artifacts"

#: Beginning of the names of folders with measurements of kernels, beside those of engines.
TIMING: Final = "timing-"


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders in which Fletcher writes.

    Attributes:
        cache: the cache folder.
        artifacts: folders of artifacts.
        journals: folders of journals of ingest jobs, and of the rows that the jobs could not use.
        audit: audit logs; their rotated files lie beside them.
    """

    cache: Path
    artifacts: Sequence[Path] = ()
    journals: Sequence[Path] = ()
    audit: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of what Fletcher writes.

    Attributes:
        kind: name, as in `--keep KIND=DAYS`.
        days: days since the last use after which it is removed; None keeps it until its kind is named in `--keep`.
        text: what it is, and what its removal costs.
        find: returns the files and folders of this kind; each is kept or removed as a whole.
    """

    kind: str
    days: float | None
    text: str
    find: Callable[[Folders], Iterator[Path]]


def _children(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, without links and hidden files, which are locks or unfinished."""
    if folder.is_dir() and not folder.is_symlink():
        for path in sorted(folder.iterdir()):
            if not path.is_symlink() and not path.name.startswith("."):
                yield path


def _measurements(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / "devices")


def _tokenizers(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / "tokenizers")


def _engines(folders: Folders) -> Iterator[Path]:
    for path in _children(folders.cache / "engines"):
        if path.is_dir() and not path.name.startswith(TIMING):
            yield path


def _timings(folders: Folders) -> Iterator[Path]:
    for path in _children(folders.cache / "engines"):
        if path.is_file() or path.name.startswith(TIMING):
            yield path


def _kernels(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / "kernels")


def _coreml(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / "coreml")


def _downloads(folders: Folders) -> Iterator[Path]:
    for store in ("hub", "pypi"):
        for path in _children(folders.cache / store):
            if path.name != "wheels":
                yield path
    yield from _children(folders.cache / "pypi" / "wheels")


def _artifacts(folders: Folders) -> Iterator[Path]:
    for folder in folders.artifacts:
        for path in _children(folder):
            if (path / "fletcher.json").is_file():
                yield path


def _journals(folders: Folders) -> Iterator[Path]:
    for folder in folders.journals:
        for path in _children(folder):
            if path.suffix == ".journal" and path.is_file():
                yield path


def _failed_rows(folders: Folders) -> Iterator[Path]:
    for folder in folders.journals:
        for path in _children(folder):
            if path.name.endswith(FAILED_ROWS) and path.is_file():
                yield path


def _remote(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / REMOTE)


def _converted(folders: Folders) -> Iterator[Path]:
    yield from _children(folders.cache / "converted")


def _audit(folders: Folders) -> Iterator[Path]:
    for log in folders.audit:
        yield from rotated_files(log)


def _unfinished(folders: Folders) -> Iterator[Path]:
    cache = folders.cache
    for folder in (
        *(cache / name for name in ("converted", "devices", "engines", "pypi", "pypi/wheels", REMOTE)),
        *folders.artifacts,
        *folders.journals,
        *(log.parent for log in folders.audit),
    ):
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if UNFINISHED.fullmatch(path.name))
    yield from _children(cache / REMOTE / ".partial")


#: Kinds in the order of the report. A new one is a function and a line here. The records of first uses (`records/` of the
#: cache) are not among them: they show later that a source was changed.
PLACES: Final[tuple[Place, ...]] = (
    Place("measurements", 180.0, "speed of providers here; the next load measures again, for about 2 s", _measurements),
    Place("tokenizers", 365.0, "tokenizers that were tried; the next load tries them again", _tokenizers),
    Place("engines", 90.0, "engines of TensorRT; the next load builds them again, for minutes", _engines),
    Place("timings", 365.0, "measurements of TensorRT's kernels; the next build takes longer", _timings),
    Place("kernels", 365.0, "Fletcher's kernels; `fletcher-serve kernels build` builds them again", _kernels),
    Place("coreml", 90.0, "models compiled by CoreML; the next load compiles them again", _coreml),
    Place(
        "downloads", 90.0, "checkpoints from the hub and from packages; the next export loads them again", _downloads
    ),
    Place("remote", 90.0, "artifacts of URLs; the next load downloads them again", _remote),
    Place("converted", 90.0, "models that integrations converted; the next use converts them again", _converted),
    Place("artifacts", None, "artifacts in the folders of --artifacts; exports make them again", _artifacts),
    Place("journals", None, "journals of ingest jobs; without one, a job writes all documents again", _journals),
    Place(
        "failed rows",
        None,
        "rows that ingest jobs could not use, with their texts; they are nowhere else",
        _failed_rows,
    ),
    Place("audit", None, "rotated files of the audit logs of --audit; the present file always stays", _audit),
    Place(
        "unfinished", UNFINISHED_DAYS, "what ended processes have left of exports, builds and downloads", _unfinished
    ),
)
