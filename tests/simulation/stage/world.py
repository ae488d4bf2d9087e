"""`World`: threads and a clock that a seed drives. Greenlets stand in for threads; exactly one runs at a time.

A thread runs until it waits for a lock, an event or the clock, or until the seed takes its turn away at such a place. The
next one is drawn from the threads that can run. If none can run, the clock jumps to the next time for which one waits. So
a seed decides the order of everything, and the same seed gives the same trace.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Final

from greenlet import GreenletExit, getcurrent, greenlet

__all__ = ["Deadlock", "Task", "Violation", "World", "the_world"]

#: Turns after which a world counts as one that never ends.
MOST_TURNS: Final = 2_000_000

#: Longest time in seconds that passes at a turn, so that two readings of the clock differ.
TURN_SECONDS: Final = 2e-5


class Violation(AssertionError):  # noqa: N818 (the name of what it is)
    """A property of the server does not hold."""


class Deadlock(Violation):
    """No thread can run, and none waits for the clock."""


class Task:
    """A thread of the world.

    Attributes:
        name: its name.
        number: its number, from 1.
        waits: what it waits for, for messages; empty if it can run.
        done: True after it has ended.
        woken: True if it was woken, False if its time ran out.
    """

    __slots__ = ("done", "greenlet", "name", "number", "ticket", "waits", "woken")

    def __init__(self, name: str, number: int, run: Callable[[], None]) -> None:
        self.name = name
        self.number = number
        self.waits = ""
        self.done = self.woken = False
        self.ticket = 0
        self.greenlet = greenlet(run)


class World:
    """Threads, clock and trace of one run.

    Attributes:
        chance: the seed's random numbers. Everything that is random in a run comes from it.
        now: seconds since the start.
        trace: what happened, one line each.
        watch: called between turns; it raises `Violation`.
        closing: True while the threads that are left are ended.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0  # so that no time is zero, which the code may use for "never"
        self.trace: list[str] = []
        self.watch: Callable[[], None] = lambda: None
        self.closing = False
        self.failure: BaseException | None = None
        #: Probability that a thread loses its turn at a place where it could wait.
        self._restless = self.chance.choice([0.02, 0.1, 0.4])
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task, int]] = []
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self.task: Task

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - 1000.0:.6f} {self.task.name} {line}")

    def run(self, main: Callable[[], None]) -> None:
        """Run a function as the first thread, until it ends.

        Raises:
            Violation: a property does not hold, or the threads wait for each other.
            BaseException: an error of `main`, or of any thread.
        """
        global _world
        assert _world is None, "one world at a time"
        _world = self
        first = self.spawn("main", main)
        try:
            turns = 0
            while not first.done:
                turns += 1
                if turns > MOST_TURNS:
                    raise Violation(f"the run does not end: {self._describe()}")
                self._next()
                if self.failure is not None:
                    raise self.failure
                self.watch()
        finally:
            self._close()
            _world = None

    def _next(self) -> None:
        """Give the next turn."""
        ready = self._ready
        self.now += self.chance.random() * TURN_SECONDS
        timers = self._timers
        while timers and (timers[0][0] <= self.now or not ready):
            at, _, task, ticket = heapq.heappop(timers)
            if task.ticket != ticket or task.done:
                continue  # it was woken before
            self.now = max(self.now, at)
            task.ticket, task.woken = 0, False
            ready.append(task)
        if not ready:
            raise Deadlock(f"no thread can run: {self._describe()}")
        place = self.chance.randrange(len(ready)) if len(ready) > 1 else 0
        ready[place], ready[-1] = ready[-1], ready[place]
        self.task = task = ready.pop()
        task.waits = ""
        task.greenlet.switch()

    def _describe(self) -> str:
        return ", ".join(f"{task.name} waits for {task.waits or 'its turn'}" for task in self._tasks if not task.done)

    def spawn(self, name: str, work: Callable[[], None]) -> Task:
        """Start a thread; it gets its first turn later."""

        def run() -> None:
            try:
                work()
            except GreenletExit:
                pass
            except BaseException as error:  # noqa: BLE001 (`run` raises it)
                if self.failure is None and not self.closing:
                    self.failure = error
            finally:
                task.done = True

        task = Task(name, next(self._numbers), run)
        task.greenlet.parent = self._hub
        self._tasks.append(task)
        self._ready.append(task)
        return task

    def pause(self) -> None:
        """Give the turn away, if the seed says so. Every place where a thread could wait calls this."""
        if not self.closing and self.chance.random() < self._restless and self._ready:
            self._ready.append(self.task)
            self._hub.switch()

    def wait(self, waits: str, seconds: float | None = None) -> bool:
        """Wait until `wake`, or until a time has passed; return whether the thread was woken.

        Args:
            waits: what the thread waits for, for messages.
            seconds: longest time; None for no limit.
        """
        if self.closing:
            raise GreenletExit
        task = self.task
        task.ticket = ticket = next(self._tickets)
        task.waits = waits
        if seconds is not None:
            heapq.heappush(self._timers, (self.now + max(seconds, 0.0), ticket, task, ticket))
        self._hub.switch()
        return task.woken

    def wake(self, task: Task) -> bool:
        """Let a thread run that waits; return False if it does not wait any more."""
        if not task.ticket or task.done:
            return False
        task.ticket, task.woken = 0, True
        self._ready.append(task)
        return True

    def sleep(self, seconds: float) -> None:
        """Wait for the clock."""
        self.wait("the clock", seconds)

    def pick(self, tasks: list[Task]) -> Task:
        """Remove and return one of some threads, as the seed says."""
        return tasks.pop(self.chance.randrange(len(tasks)) if len(tasks) > 1 else 0)

    def _close(self) -> None:
        """End the threads that are left: those that hang, and those of a run that failed."""
        self.closing = True
        for task in self._tasks:
            if not task.done:
                self.task = task
                task.greenlet.throw(GreenletExit)
                task.done = True


_world: World | None = None


def the_world() -> World:
    """Return the world that runs now."""
    assert _world is not None
    return _world
