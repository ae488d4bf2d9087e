"""Stand-in for the engine process and the fronts, which behaves as a file in the folder of the test says.

The supervisor starts `python stand_in.py BEHAVIOR LOG ROLE DESCRIPTOR`. BEHAVIOR is a JSON file that each start reads again:
`engine` and `front` have the behavior of a role, `front 2` that of one front. LOG receives one line for each event.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import FletcherError, InputError, OptionError
from fletcher.serve.fronts import child
from fletcher.serve.fronts.config import ProcessConfig
from fletcher.serve.fronts.connections import PassedConnections
from fletcher.serve.fronts.control import Control
from fletcher.serve.fronts.messages import Changed, Connections, Ready, Reload, Reloaded, Stop, Stopped
from fletcher.serve.models.served import ServedModel
from fletcher.serve.models.spec import ModelSpec

ERRORS: dict[str, BaseException] = {
    "input": InputError("the file /a is not an artifact"),
    "option": OptionError("precision", "precision is 'x': use fp16"),
    "other": ValueError("a defect"),
}


def run(role: str, config: ProcessConfig, control: Control) -> None:
    """Behave as the file says."""
    behavior_file, log = Path(sys.argv[1]), Path(sys.argv[2])
    name = f"front {config.front}" if config.front else "engine"
    behaviors: dict[str, str] = json.loads(behavior_file.read_text())
    behavior = behaviors.get(name, behaviors.get(role, ""))

    def note(*words: object) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, (name, *words))) + "\n")

    note("start", os.getpid(), *(spec.name for spec in config.specs))
    if role == "engine":
        Path(config.engine_http).touch(exist_ok=False)  # the supervisor has removed what another engine left
    if behavior.startswith("error "):
        raise ERRORS[behavior.removeprefix("error ")]
    if behavior == "exit":
        os._exit(7)
    if behavior == "never ready":
        time.sleep(60)
    if behavior.startswith("late "):
        time.sleep(float(behavior.removeprefix("late ")))
    if role == "engine":
        _engine(config, control, behavior, note)
    else:
        _front(name, config, control, note)


def _engine(config: ProcessConfig, control: Control, behavior: str, note: Any) -> None:
    control.send(Ready((ServedModel("a", "b", "c"),)))
    if behavior.startswith("change "):
        control.send(Changed((ModelSpec(path="", name=behavior.removeprefix("change ")),)))
    for command in control.commands():
        if isinstance(command, Reload):
            specs = config.specs if command.specs is None else command.specs
            bad = any(spec.name == "bad" for spec in specs)
            note("reload", *(spec.name for spec in specs))
            control.send(Reloaded("bad model" if bad else None, tuple(spec.name for spec in specs)))
        elif isinstance(command, Stop):
            note("stop", round(command.drain_seconds))
            control.send(Stopped(True))
            return


def _front(name: str, config: ProcessConfig, control: Control, note: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        if scope["path"] == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif scope["path"] == "/hang":
            time.sleep(60)  # the event loop with it
        elif scope["path"] == "/slow":
            await asyncio.sleep(float(query))
        body = json.dumps({"front": config.front, "pid": os.getpid()}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    connections = PassedConnections(
        app,
        drain_seconds=config.options.drain_seconds,
        on_counts=lambda begun, closed: control.send(Connections(begun, closed)),
    )
    connections.start()
    control.answer_pings_on(connections.loop)
    control.send(Ready())
    for command in control.commands():
        match command:
            case socket.socket():
                connections.add(command)
            case Reload():
                note("reload")
                control.send(Reloaded())
            case Stop():
                note("stop", round(command.drain_seconds))
                connections.stop()
                control.send(Stopped(connections.join()))
                return


if __name__ == "__main__":
    child._run = run
    try:
        sys.exit(child.main(sys.argv[3:]))
    except FletcherError as error:
        sys.exit(str(error))
