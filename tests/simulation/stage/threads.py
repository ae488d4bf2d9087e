"""Stand-ins for `threading` in a world: locks, conditions, events, threads, and the executor."""

from __future__ import annotations

import threading as real
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from fletcher.serve.futures import settle

from .world import Task, World, the_world

__all__ = ["Condition", "Event", "Executor", "Lock", "Threading"]


class Lock:
    """`threading.Lock`. A thread that waits for it gets it in an order that the seed decides."""

    __slots__ = ("_held", "_waiting", "_world")

    def __init__(self) -> None:
        self._world = the_world()
        self._held = False
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        world = self._world
        world.pause()
        until = None if timeout < 0 else world.now + timeout
        while self._held and not world.closing:
            if not blocking:
                return False
            self._waiting.append(task := world.task)
            woken = world.wait("a lock", None if until is None else until - world.now)
            if not woken:
                self._waiting.remove(task)
                if self._held:
                    return False
        self._held = True
        return True

    def release(self) -> None:
        assert self._held or self._world.closing, "released a lock that is not held"
        self._held = False
        if self._waiting:
            self._world.wake(self._world.pick(self._waiting))

    def locked(self) -> bool:
        return self._held

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()
        self._world.pause()


class RLock:
    """`threading.RLock`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        task = the_world().task
        if self._owner is not task:
            if not self._lock.acquire(blocking, timeout):
                return False
            self._owner = task
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """`threading.Condition`. It wakes waiting threads in an order that the seed decides."""

    __slots__ = ("_lock", "_waiting", "_world")

    def __init__(self, lock: Lock | None = None) -> None:
        self._world = the_world()
        self._lock = Lock() if lock is None else lock
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._world.pause()

    def wait(self, timeout: float | None = None) -> bool:
        self._waiting.append(task := self._world.task)
        self._lock.release()
        try:
            woken = self._world.wait("a condition", timeout)
        finally:
            if task in self._waiting:
                self._waiting.remove(task)
            self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._world.now + timeout
        while not (result := predicate()):
            left = None if until is None else until - self._world.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        assert self._lock.locked() or self._world.closing, "notified a condition whose lock is not held"
        while n and self._waiting:
            n -= self._world.wake(self._world.pick(self._waiting))

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """`threading.Event`."""

    __slots__ = ("_set", "_waiting", "_world")

    def __init__(self) -> None:
        self._world = the_world()
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task in self._waiting:
            self._world.wake(task)
        self._waiting.clear()
        self._world.pause()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._waiting.append(task := self._world.task)
            self._world.wait("an event", timeout)
            if task in self._waiting:
                self._waiting.remove(task)
        return self._set


class Thread:
    """`threading.Thread`. An error that ends it ends the run."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str = "",
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.daemon = daemon
        self.name = name
        assert target is not None
        self._work = partial(target, *args, **kwargs or {})
        self._task: Task | None = None
        self._ended = Event()

    def start(self) -> None:
        world = the_world()

        def run() -> None:
            try:
                self._work()
            finally:
                _threads.pop(task, None)
                self._ended.set()

        self._task = task = world.spawn(self.name, run)
        _threads[task] = self
        world.pause()

    @property
    def ident(self) -> int | None:
        return None if self._task is None else self._task.number

    def is_alive(self) -> bool:
        return self._task is not None and not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        assert self._task is not None
        self._ended.wait(timeout)


#: Thread objects by their tasks.
_threads: dict[Task, Thread] = {}


class Executor:
    """`ThreadPoolExecutor`: threads that take works in the order of their arrival."""

    def __init__(self, max_workers: int = 6, thread_name_prefix: str = "pool", **_: object) -> None:
        self._world: World = the_world()
        self._most = max_workers
        self._name = thread_name_prefix
        self._works: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._arrived = Condition()
        self._threads: list[Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._arrived:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._works.append((future, lambda: work(*args, **kwargs)))
            if self._idle < len(self._works) and len(self._threads) < self._most:
                thread = Thread(target=self._work, name=f"{self._name}_{len(self._threads)}")
                self._threads.append(thread)
                thread.start()
            self._arrived.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._idle += 1
                self._arrived.wait_for(lambda: self._works or self._closed)
                self._idle -= 1
                if not self._works:
                    return
                future, work = self._works.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            settle(future, work)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._arrived:
            self._closed = True
            if cancel_futures:
                for future, _ in self._works:
                    future.cancel()
                self._works.clear()
            self._arrived.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()


class Threading:
    """The module `threading` in a world."""

    Lock = Lock
    RLock = RLock
    Condition = Condition
    Event = Event
    Thread = Thread
    local = real.local

    @staticmethod
    def current_thread() -> object:
        task = the_world().task
        return _threads.get(task, task)

    @staticmethod
    def main_thread() -> object:
        return None

    @staticmethod
    def get_ident() -> int:
        return the_world().task.number
