"""`ProcessConfig`: the first message on a control socket, with everything that a child process needs to start."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..access.limits.ledger import TableLedger
from ..models.spec import ModelSpec
from ..server_options import ServerOptions

__all__ = ["ProcessConfig"]


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, tag="config", tag_field="type"):
    """Configuration of a child process.

    Attributes:
        specs: models to serve.
        options: options of the server.
        folder: private folder of the Unix sockets.
        flight: address of Flight with its port, `HOST:PORT`; None without Flight.
        front: number of the front, from 1; 0 for the engine.
    """

    specs: tuple[ModelSpec, ...]
    options: ServerOptions
    folder: str
    flight: str | None = None
    front: int = 0

    @property
    def engine_http(self) -> str:
        """Path of the Unix socket of the engine's HTTP application."""
        return str(Path(self.folder, "engine.http"))

    @property
    def engine_rows(self) -> str:
        """Path of the Unix socket of the channel of rows."""
        return str(Path(self.folder, "engine.rows"))

    def open_table(self) -> TableLedger:
        """Open the table of limits that the engine and all fronts share."""
        return TableLedger(Path(self.folder, "limits"), self.front, max(self.options.front_count, 1) + 1)

    @property
    def front_flight(self) -> str:
        """Path of the Unix socket of this front's Flight server."""
        return str(Path(self.folder, f"front-{self.front}.flight"))

    @property
    def engine_flight(self) -> str:
        """Path of the Unix socket of the engine's Flight server."""
        return str(Path(self.folder, "engine.flight"))
