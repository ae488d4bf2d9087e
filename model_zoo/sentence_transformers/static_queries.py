"""Settings of models whose queries need no encoder. `convert/checkpoint/routes/` writes their file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from ..card import StaticQueries
from .files import read_json

__all__ = ["QUERIES", "read_static_queries"]

#: File of the settings in the layout of such a checkpoint.
QUERIES: Final = ".static_queries.json"


def read_static_queries(folder: Path) -> StaticQueries | msgspec.UnsetType:
    """Return the settings, if the checkpoint has them.

    Raises:
        CardError: the file is not JSON, or has a key of a wrong type.
    """
    return read_json(folder / QUERIES, StaticQueries) or msgspec.UNSET
