"""`Pages`: options of the pages that people open in a browser."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pages"]


@dataclass(frozen=True, slots=True)
class Pages:
    """Options of the pages `/docs` and `/playground`.

    Attributes:
        root_path: prefix of the paths under which clients reach the server, for the OpenAPI document.
        playground: whether the server has `/playground`.
    """

    root_path: str = ""
    playground: bool = True
