"""`simulate`: one run of a seed: models, clients, an admin, and a stop, with the properties that must hold."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from fletcher.runtime.errors import FletcherError
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.engine import Engine
from fletcher.serve.http import app as http_app
from fletcher.serve.models import version as version_module
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.observe.metrics import Metrics
from fletcher.serve.server_options import ServerOptions
from fletcher.serve.surroundings import Surroundings

from .parts.admin import Admin
from .parts.backend import Loads
from .parts.callers import BODY_SECONDS, CLIENTS, LIMITED, LIMITS, HttpCaller, ThreadCaller, draw_plan
from .parts.judge import AuditedBudget, Judge, observed, require
from .parts.promises import check_promises
from .parts.weather import Weather
from .stage.loop import VirtualLoop
from .stage.standins import standins
from .stage.threads import Thread
from .stage.world import Violation, World

__all__ = ["Outcome", "failing_seeds", "simulate", "simulator"]

#: Seconds that a stop may take on top of its drain.
STOP_SLACK = 1.0

#: Seconds that a fleet waits for devices that are being opened again when it is closed (`CLOSING_SECONDS`).
REOPENING = 10.0

#: Seconds in which the tasks of answered requests must have ended.
LINGER = 1.0

#: Seconds after a stop in which all threads must have ended.
AFTERWARDS = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run.

    Attributes:
        seed: its seed.
        trace: what happened, one line each.
        error: the property that does not hold, or None.
    """

    seed: int
    trace: tuple[str, ...]
    error: BaseException | None


class _Run:
    """The present run, which the observers of production classes look up."""

    judge: Judge
    weather: Weather
    keys: Path


class _Surroundings(Surroundings):
    """Surroundings whose engines have the limits of the weather, and whose judge knows them."""

    def make_engine(self, encoder: Backend, metrics: Metrics) -> Engine:
        engine = super().make_engine(encoder, metrics)
        engine.admission.max_memory = _Run.weather.memory
        _Run.judge.engines.append(engine)
        stop = engine.stop

        def stopping(drain_seconds: float = 30.0) -> bool:
            drained = stop(drain_seconds)
            if not drained:
                _Run.judge.undrained.append(encoder)
            return drained

        engine.stop = stopping  # type: ignore[method-assign]
        return engine


@contextmanager
def simulator() -> Iterator[None]:
    """Prepare the server's modules for runs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys: list[dict[str, object]] = [
            {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()} for name, token in CLIENTS.items()
        ]
        for key in keys:
            if key["name"] == LIMITED:
                key["limits"] = LIMITS
        _Run.keys = folder / "keys.json"
        _Run.keys.write_text(json.dumps({"keys": keys}))
        _Run.keys.chmod(0o600)
        # They take most of a run's time, and decide nothing.
        stack.enter_context(mock.patch.object(http_app, "openapi_document", lambda *_, **__: {}))
        stack.enter_context(mock.patch.object(version_module, "give_memory_back", lambda: None))
        stack.enter_context(mock.patch.object(version_module, "container_limit", lambda: None))
        stack.enter_context(observed(lambda: _Run.judge))
        stack.enter_context(standins())
        stack.enter_context(mock.patch.object(http_app.logger, "exception", _find_defect))
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, before)
        yield


def _find_defect(message: str, **_: object) -> None:
    """Take the place of the log of errors that no code expects."""
    raise Violation(f"{message}: {sys.exc_info()[1]!r}")


def simulate(seed: int) -> Outcome:
    """Run a seed inside of `simulator`."""
    world = World(seed)
    error: BaseException | None = None
    try:
        world.run(lambda: _live(world))
    except (Violation, Exception) as found:  # noqa: BLE001 (a result)
        error = found
    return Outcome(seed, tuple(world.trace), error)


def failing_seeds(seeds: Iterable[int]) -> list[tuple[int, str]]:
    """Run seeds; return those that failed, with their errors."""
    failed = []
    with simulator():
        for seed in seeds:
            if (error := simulate(seed).error) is not None:
                failed.append((seed, f"{type(error).__name__}: {error}"))
    return failed


def _live(world: World) -> None:
    """Serve the clients of a run, stop, and check what is left."""
    chance, weather = world.chance, Weather.of(world.chance)
    world.note(repr(weather))
    by_name = {f"m{index}": each for index, each in enumerate(weather.models)}
    loads = Loads(by_name)
    budget = AuditedBudget(weather.budget)
    _Run.weather = weather
    _Run.judge = judge = Judge(world, budget, weather.queue_tokens)
    options = ServerOptions(
        keys=str(_Run.keys),
        queue_tokens=weather.queue_tokens,
        queue_seconds=weather.queue_seconds,
        body_seconds=BODY_SECONDS,
        drain_seconds=weather.drain_seconds,
        load_seconds=weather.load_limit,
    )
    opened = _Surroundings.open(options, table=judge.ledger)
    limits = replace(opened.limits, budget=budget)
    surroundings = replace(opened, limits=limits)
    models = surroundings.make_models(loads)
    models.apply([ModelSpec(path="", name=name, idle_seconds=each.idle_seconds) for name, each in by_name.items()])
    loads.calm = False
    world.watch = judge.watch
    app = surroundings.make_app(models)
    names = list(by_name)
    threads = [
        ThreadCaller(world, models, draw_plan(chance, names, weather.seconds)) for _ in range(weather.clients[1])
    ]
    https: list[HttpCaller] = []

    def serve() -> None:
        loop = VirtualLoop()

        async def go() -> None:
            https.extend(
                HttpCaller(world, app, draw_plan(chance, names, weather.seconds)) for _ in range(weather.clients[0])
            )
            tasks = [loop.create_task(caller.run()) for caller in https]
            for task in tasks:
                await task
            await asyncio.sleep(LINGER)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            require(not left, f"tasks are left: {left}")

        try:
            loop.run_until_complete(go())
        finally:
            loop.dispose()

    workers = [Thread(target=serve, name="loop")]
    workers += [Thread(target=caller.run, name=f"caller-{number}") for number, caller in enumerate(threads)]
    admin = Admin(world, models, by_name, weather)
    change = Thread(target=admin.run, name="admin", daemon=True)
    for worker in (*workers, change):
        worker.start()
    if weather.stops_at is None:
        for worker in workers:
            worker.join()
    else:
        world.sleep(weather.stops_at)
    world.note("stop")
    stopped = world.now
    drained = models.stop(weather.drain_seconds)
    took = world.now - stopped
    world.note(f"stopped {drained}")
    reopening = REOPENING if any(len(each.devices) > 1 and not each.healthy for each in weather.models) else 0.0
    require(
        took <= weather.drain_seconds + STOP_SLACK + reopening,
        f"a stop with {weather.drain_seconds} s took {took:.1f} s",
    )
    for worker in workers:
        worker.join(AFTERWARDS)
        require(not worker.is_alive(), f"{worker.name} has not ended: {world._describe()}")
    world.sleep(AFTERWARDS)
    judge.check()
    for caller in threads:
        caller.check_ends()
    for engine in judge.engines:
        admission = engine.admission
        left = (admission.count, admission.tokens, admission.memory, admission.shares.counted)
        require(left == (0, 0, 0, 0), f"an engine that stopped holds {left}")
        require(not admission.shares._clients and not admission.shares._flows, "shares of clients are left")
        require(not admission.parked.flows and not engine._backlog._waiting.heap, "requests wait for ever")
    require(judge.in_flight == 0, "a request is in flight at the end")
    require(budget.used == 0, f"{budget.used} bytes are held at the end")
    for model in loads.opened:
        require(model.closed or model in judge.undrained, f"{model.name} was not closed")
    for error in admin.errors:
        require(isinstance(error, FletcherError), f"a change ended with {error!r}")
    check_promises(weather, by_name, https, threads)
