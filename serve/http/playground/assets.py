"""`Asset`: a file of the page `/playground`, and `read_assets`, which reads them all.

The files in `page/` are modules and styles as browsers load them: nothing is built, and nothing of other projects is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

__all__ = ["HOME", "POLICY", "TYPES", "Asset", "read_assets"]

#: Name of the page itself.
HOME: Final = "index.html"

#: Content security policy of all files. The browser loads scripts and styles from this server alone and none that are inside
#: the page, connects to no other host, and lets no script turn text into markup; `fletcher-worker` names the one script that
#: the page starts by its address.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types fletcher-worker"
)

#: Media types of the files by the ends of their names.
TYPES: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "html": b"text/html; charset=utf-8",
        "css": b"text/css; charset=utf-8",
        "js": b"text/javascript; charset=utf-8",
    }
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page.

    Attributes:
        body: its content.
        content_type: its media type.
    """

    body: bytes
    content_type: bytes


@cache
def read_assets() -> Mapping[str, Asset]:
    """Return the files of the page, which are read once, by their paths relative to it, such as `map/canvas.js`."""
    page = files(__package__).joinpath("page")
    return MappingProxyType(
        {name: Asset(file.read_bytes(), TYPES[name.rpartition(".")[2]]) for name, file in _files(page, "")}
    )


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in TYPES:
            yield prefix + entry.name, entry
