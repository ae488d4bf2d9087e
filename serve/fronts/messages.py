"""Messages of the control sockets. `control.py` describes their transport."""

from __future__ import annotations

import msgspec

from fletcher.model_zoo.errors import FletcherError
from fletcher.runtime.errors import ServiceError

from ..models.served import ServedModel
from ..models.spec import ModelSpec
from .config import ProcessConfig
from .error_data import ErrorData

__all__ = [
    "Changed",
    "Connection",
    "Connections",
    "Failed",
    "Leave",
    "Ping",
    "Pong",
    "Ready",
    "Received",
    "Reload",
    "Reloaded",
    "Report",
    "Stop",
    "Stopped",
    "ToChild",
]


class Connection(msgspec.Struct, frozen=True, tag="connection", tag_field="type"):
    """To a front: an accepted connection, which travels as a descriptor."""


class Ping(msgspec.Struct, frozen=True, tag="ping", tag_field="type"):
    """To a child: a question whether it still works."""


class Reload(msgspec.Struct, frozen=True, tag="reload", tag_field="type"):
    """To a child: read the API keys again.

    Attributes:
        specs: models to serve from now on; None to keep the present ones. Fronts get None.
    """

    specs: tuple[ModelSpec, ...] | None = None


class Leave(msgspec.Struct, frozen=True, tag="leave", tag_field="type"):
    """To the engine: the server is going to stop, so that `/ready` answers 503 from now on."""


class Stop(msgspec.Struct, frozen=True, tag="stop", tag_field="type"):
    """To a child: answer what is open, and end.

    Attributes:
        drain_seconds: seconds that this may take.
    """

    drain_seconds: float


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="type"):
    """From a child: it has started.

    Attributes:
        models: models that are served; only from the engine.
        admin: URL of the admin API if it has an address of its own; only from the engine.
    """

    models: tuple[ServedModel, ...] = ()
    admin: str | None = None


class Failed(ErrorData, frozen=True, tag="failed", tag_field="type"):
    """From a child: it cannot start."""

    def rebuild(self, role: str) -> FletcherError:
        """Return the error.

        Args:
            role: name of the child, for an error that is not Fletcher's.
        """
        return self.rebuilt() or ServiceError(
            f"{role} failed at its start with {self.error}: {self.message}; the log has the details"
        )


class Received(msgspec.Struct, frozen=True, tag="received", tag_field="type"):
    """From a front: number of connections that it has received since its start. `Control` sends it."""

    count: int


class Connections(msgspec.Struct, frozen=True, tag="connections", tag_field="type"):
    """From a front: its connections since its start.

    Attributes:
        begun: number of those that its event loop has taken.
        closed: number of those that have ended.
    """

    begun: int
    closed: int


class Pong(msgspec.Struct, frozen=True, tag="pong", tag_field="type"):
    """From a child: the answer to a ping. `Control` sends it."""


class Reloaded(msgspec.Struct, frozen=True, tag="reloaded", tag_field="type"):
    """From a child: it has read the keys, and the engine the models, again.

    Attributes:
        error: reason why everything stayed as it was, or None.
        models: models that are served now, as NAME@VERSION; only from the engine.
    """

    error: str | None = None
    models: tuple[str, ...] = ()


class Changed(msgspec.Struct, frozen=True, tag="changed", tag_field="type"):
    """From the engine: the admin API or Flight changed the models. A restarted engine gets these.

    Attributes:
        specs: models that are served now.
    """

    specs: tuple[ModelSpec, ...]


class Stopped(msgspec.Struct, frozen=True, tag="stopped", tag_field="type"):
    """From a child: it has stopped and ends now.

    Attributes:
        drained: whether everything that was open was answered in time.
    """

    drained: bool


#: Messages to a child.
ToChild = ProcessConfig | Connection | Ping | Reload | Leave | Stop

#: Messages from a child.
Report = Ready | Failed | Received | Connections | Pong | Reloaded | Changed | Stopped
