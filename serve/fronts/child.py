"""A child process: `python -m fletcher.serve.fronts.child ROLE DESCRIPTOR`, which only the supervisor starts.

ROLE is `engine` or `front`, DESCRIPTOR the number of the inherited control socket. The first message has the configuration.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fletcher.runtime.errors import FletcherError, InputError

from ..models.heap import few_arenas
from ..observe import logs
from ..signals import end_process
from .config import ProcessConfig
from .control import Control
from .messages import Failed

__all__ = ["main"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Module and function of each role. A front does not import the engine's module, and the engine not the front's.
ROLES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"engine": (".engine_process", "run_engine"), "front": (".front.process", "run_front")}
)

#: Signals that a terminal or systemd sends to every process of a group. The supervisor decides what its children do.
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run a child to its end.

    Args:
        arguments: role and descriptor.

    Returns:
        The exit code: 0 after a stop, 1 after a failed start.

    Raises:
        InputError: the arguments are others.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)  # the supervisor blocked them until here
    if len(arguments) != 2 or arguments[0] not in ROLES:
        raise InputError("a child process is started by the supervisor: use fletcher-serve run --fronts N")
    few_arenas()
    control = Control(socket.socket(fileno=int(arguments[1])))
    config = control.start(on_end=_end)
    if config is None:
        return 1
    logs.install(config.options.log_level.upper())
    try:
        _run(arguments[0], config, control)
    except FletcherError as error:
        control.send(Failed.of(error))
        return 1
    except Exception as error:
        logger.exception("the process failed")
        control.send(Failed.of(error))
        return 1
    finally:
        control.close()
    return 0


def _end(config: ProcessConfig) -> None:
    """End the process at once, because the supervisor has ended; remove the folder that it cannot remove any more."""
    shutil.rmtree(config.folder, ignore_errors=True)
    os._exit(1)


def _run(role: str, config: ProcessConfig, control: Control) -> None:
    module, function = ROLES[role]
    getattr(importlib.import_module(module, __package__), function)(config, control)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
