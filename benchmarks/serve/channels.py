"""Two mechanisms for messages between front processes and one engine process, in plain Python.

    python -m benchmarks.serve.channels [--output FILE.json] [--rounds 3] [--seconds 0.5] [--peers 1 8]

A front sends token ids (64 int32 a text) and gets vectors (384 float16 a text), in messages of 1, 8, 64 and 1,024 texts:

- `socket`: a Unix stream socket. `transport.writelines` sends header and array without joining them, and a
  `BufferedProtocol` receives a message's array into a buffer of that process. The kernel copies the bytes twice.
- `ring`: a ring in each direction in a memfd that both processes map, with an eventfd on each side, which the loop watches.
  The sender copies the array into the ring, and the receiver reads it there. A side that is about to sleep sets a flag, and
  the other side writes to the eventfd only if the flag is set, so a busy receiver costs no system call.

Every process runs a uvloop loop in one thread. For throughput each front has several messages in flight, for the round trip
one, with a pause after each. Each answer is checked: its number, and a value of the array that depends on the request. The
rounds are interleaved, and a figure is the median of the rounds. Each CPU time is that of a process divided by messages.

The ring needs the order of stores that x86 gives; between the flag and the position of the other side it needs a full
fence, and an acquisition of a lock is one. On another processor both would have to be atomic operations.

On a free-threaded interpreter (CPython 3.13t or later, `python3.14t`) the fronts could be threads of the engine's process:
the channel would be a queue that passes references, with the same eventfd for wake-ups, no copy, no second mapping of the
tokenizer, and no serialization of errors. Processes keep three advantages there: a crash or a leak in one front's extension
modules ends only that front; each has its own reference counts and collector, which threads contend for; and the loop of one
front does not share a heap with the engine. One extension module that does not declare its support turns the global lock on
again for the whole process, so all of them have to be checked by `sys._is_gil_enabled()` after the imports. The report
says whether such an interpreter is installed here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

MECHANISMS = ("socket", "ring")
SIZES = (1, 8, 64, 1024)

#: Tokens of a text one way, elements of a vector the other way.
TOKENS, DIMENSION = 64, 384

#: Texts that a front has in flight when throughput is measured, at most; in messages, between the two bounds.
TEXTS_IN_FLIGHT, FEWEST_IN_FLIGHT, MOST_IN_FLIGHT = 2048, 2, 32

#: Seconds between an answer and the next message at light load.
PAUSE = 0.002

#: Seconds of load before the measurement, and until a process must have answered a command.
WARM, PATIENCE = 0.1, 10.0

#: Header of a message: number, texts, bytes of the array.
HEADER = struct.Struct("<QII")

#: Bytes of the largest message.
LARGEST = HEADER.size + SIZES[-1] * DIMENSION * 2

#: Bytes of a ring's data. Four messages of 1,024 vectors fit.
RING = 1 << 22

Handler = Callable[[int, int, memoryview], None]


class SocketEnd(asyncio.BufferedProtocol):
    """`SocketEnd`: an end of a Unix socket. It calls the handler with number, texts and array of each message."""

    def __init__(self, handler: Callable[[SocketEnd], Handler]) -> None:
        self._handler = handler(self)
        self._buffer = memoryview(bytearray(4 * LARGEST))
        self._start = self._end = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        with_buffers(self._transport.get_extra_info("socket"))

    def send(self, number: int, texts: int, array: memoryview) -> None:
        """Send a message. The array must not change until it was sent."""
        assert self._transport is not None
        self._transport.writelines([HEADER.pack(number, texts, array.nbytes), array])

    def get_buffer(self, hint: int) -> memoryview:
        return self._buffer[self._end :]

    def buffer_updated(self, count: int) -> None:
        self._end += count
        while self._end - self._start >= HEADER.size:
            number, texts, size = HEADER.unpack_from(self._buffer, self._start)
            body = self._start + HEADER.size
            if self._end - body < size:
                break
            self._handler(number, texts, self._buffer[body : body + size])
            self._start = body + size
        left = self._end - self._start
        if not left:
            self._start = self._end = 0
        elif self._start + LARGEST > len(self._buffer):  # the message that has begun may not fit
            self._buffer[:left] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, left


def with_buffers(end: Any) -> None:
    """Ask for large buffers; the kernel limits them to net.core.wmem_max."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, 1 << 22)


class Half:
    """`Half`: one direction of a ring: two positions, the sleeper's flag, and the data."""

    #: Bytes of a half. The positions and the flag are in cache lines of their own.
    SIZE = 256 + RING

    def __init__(self, memory: memoryview) -> None:
        # Views of one element each: a store of an aligned 8-byte element is one store of the processor.
        self.written, self.read, self.sleeps = (memory[place : place + 8].cast("Q") for place in (0, 64, 128))
        self.data = memory[256:]


class RingEnd:
    """`RingEnd`: an end of two rings in shared memory. It calls the handler as `SocketEnd` does.

    Each ring has one writer and one reader. The handler's array is memory of the ring, which is free again afterwards.
    """

    def __init__(self, memory: memoryview, events: tuple[int, int], side: int, handler: Callable[[RingEnd], Handler]):
        halves = [Half(memory[: Half.SIZE]), Half(memory[Half.SIZE : 2 * Half.SIZE])]
        self._out, self._in = halves[side], halves[1 - side]
        self._wake, self._woken = events[side], events[1 - side]
        self._handler = handler(self)
        self._fence = threading.Lock()
        self._position = 0  # written by this side
        self._in.sleeps[0] = 1
        asyncio.get_running_loop().add_reader(self._woken, self._receive)

    def send(self, number: int, texts: int, array: memoryview) -> None:
        """Copy a message into the ring, and wake the other side if it sleeps.

        Raises:
            BufferError: the ring is full.
        """
        out, size = self._out, array.nbytes
        length = (HEADER.size + size + 15) & ~15
        position = self._position
        place = position % RING
        if place + length > RING:  # a message is never divided: the rest of the ring is skipped
            skipped = RING - place
            self._require(position + skipped + length)
            HEADER.pack_into(out.data, place, 0, 0, 0xFFFFFFFF)
            position, place = position + skipped, 0
        else:
            self._require(position + length)
        HEADER.pack_into(out.data, place, number, texts, size)
        out.data[place + HEADER.size : place + HEADER.size + size] = array
        self._position = out.written[0] = position + length
        with self._fence:
            pass
        if out.sleeps[0]:
            out.sleeps[0] = 0
            os.eventfd_write(self._wake, 1)

    def _require(self, position: int) -> None:
        if position - self._out.read[0] > RING:
            raise BufferError("the ring is full")

    def _receive(self) -> None:
        os.eventfd_read(self._woken)
        half = self._in
        position = half.read[0]
        while True:
            end = half.written[0]
            while position < end:
                place = position % RING
                number, texts, size = HEADER.unpack_from(half.data, place)
                if size == 0xFFFFFFFF:
                    position += RING - place
                    continue
                body = place + HEADER.size
                self._handler(number, texts, half.data[body : body + size])
                position += (HEADER.size + size + 15) & ~15
                half.read[0] = position
            half.sleeps[0] = 1
            with self._fence:
                pass
            if half.written[0] == position:
                return
            half.sleeps[0] = 0


End = SocketEnd | RingEnd


def flat(array: NDArray[Any]) -> memoryview:
    """Return an array's bytes."""
    return memoryview(array.reshape(-1).view(np.uint8)).cast("B")


class Engine:
    """`Engine`: the engine's process, which answers each message with vectors of as many texts."""

    def __init__(self) -> None:
        self.vectors = np.zeros((SIZES[-1], DIMENSION), np.float16)
        self.answers = {size: flat(self.vectors[:size]) for size in SIZES}

    def handler(self, end: End) -> Handler:
        def answer(number: int, texts: int, array: memoryview) -> None:
            ids = np.frombuffer(array, np.int32).reshape(texts, TOKENS)  # the real engine packs these rows into a batch
            if int(ids[-1, 0]) != number % 1000:
                raise RuntimeError("a message has the ids of another one")
            end.send(number, texts, self.answers[texts])

        return answer

    async def run(self, folder: Path, memories: list[memoryview], events: list[tuple[int, int]]) -> None:
        """Answer until the parent closes the standard input; report the CPU time of each measurement."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: SocketEnd(self.handler), str(folder / "engine.sock"))
        ends = [RingEnd(memory, pair, 1, self.handler) for memory, pair in zip(memories, events, strict=True)]
        print("ready", flush=True)
        while text := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(text)
            await asyncio.sleep(command["begin"] - time.monotonic())
            cpu = time.process_time()
            await asyncio.sleep(command["end"] - time.monotonic())
            print(json.dumps({"cpu_seconds": time.process_time() - cpu}), flush=True)
        server.close()
        del ends


class Front:
    """`Front`: a front's process, which sends messages on one channel at a time."""

    def __init__(self) -> None:
        self.ids = {size: np.zeros((size, TOKENS), np.int32) for size in SIZES}
        self.command: dict[str, Any] = {}
        self.end: End | None = None
        self.sent: dict[int, float] = {}
        self.number = self.answered = 0
        self.round_trips: list[float] = []
        self.done = asyncio.Event()

    def handler(self, end: End) -> Handler:
        def receive(number: int, texts: int, array: memoryview) -> None:
            now = time.monotonic()
            sent = self.sent.pop(number)  # KeyError for a second answer, or an answer to no message
            if array.nbytes != texts * DIMENSION * 2 or texts != self.command["texts"]:
                raise RuntimeError("an answer has another size than its message")
            if self.command["begin"] <= now < self.command["end"]:
                self.answered += 1
                self.round_trips.append(now - sent)
            if now >= self.command["end"]:
                if not self.sent:
                    self.done.set()
            elif self.command["pause"]:
                asyncio.get_running_loop().call_later(self.command["pause"], self.send)
            else:
                self.send()

        return receive

    def send(self) -> None:
        """Send the next message in an array of its own, as a tokenizer makes one."""
        self.number += 1
        ids = self.ids[self.command["texts"]].copy()
        ids[-1, 0] = self.number % 1000
        self.sent[self.number] = time.monotonic()
        assert self.end is not None
        self.end.send(self.number, self.command["texts"], flat(ids))

    async def run(self, folder: Path, memory: memoryview, events: tuple[int, int]) -> None:
        """Obey the parent's commands."""
        loop = asyncio.get_running_loop()
        _, over_socket = await loop.create_unix_connection(lambda: SocketEnd(self.handler), str(folder / "engine.sock"))
        ends: dict[str, End] = {"socket": over_socket, "ring": RingEnd(memory, events, 0, self.handler)}
        print("ready", flush=True)
        while text := await loop.run_in_executor(None, sys.stdin.readline):
            self.command = command = json.loads(text)
            self.end = ends[command["mechanism"]]
            self.answered, self.round_trips = 0, []
            self.done.clear()
            for _ in range(command["in_flight"]):
                self.send()
            await asyncio.sleep(command["begin"] - time.monotonic())
            cpu = time.process_time()
            await asyncio.sleep(command["end"] - time.monotonic())
            cpu = time.process_time() - cpu
            await asyncio.wait_for(self.done.wait(), PATIENCE / 2)
            result = {"messages": self.answered, "cpu_seconds": cpu, "round_trips": self.round_trips}
            print(json.dumps(result if command["pause"] else result | {"round_trips": []}), flush=True)


class Children:
    """`Children`: context manager of the engine's process and the fronts' processes."""

    def __init__(self, fronts: int) -> None:
        self._fronts = fronts
        self.engine: subprocess.Popen[str]
        self.fronts: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Children:
        self._folder = tempfile.TemporaryDirectory(prefix="fletcher-")
        descriptors = []
        for number in range(self._fronts):
            memory = os.memfd_create(f"ring-{number}")
            os.ftruncate(memory, 2 * Half.SIZE)
            flags = os.EFD_NONBLOCK
            descriptors.append([memory, os.eventfd(0, flags), os.eventfd(0, flags)])
        try:
            self.engine = self._start("engine", descriptors)
            read_line(self.engine)
            self.fronts = [self._start("front", [each]) for each in descriptors]
            for front in self.fronts:
                read_line(front)
        except BaseException:
            self.__exit__()
            raise
        finally:
            for each in descriptors:
                for descriptor in each:
                    os.close(descriptor)
        return self

    def _start(self, role: str, descriptors: list[list[int]]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, __file__, "--role", role, self._folder.name, json.dumps(descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[descriptor for each in descriptors for descriptor in each],
        )

    def __exit__(self, *_: object) -> None:
        for child in [*self.fronts, *([self.engine] if hasattr(self, "engine") else [])]:
            child.kill()
            child.communicate()
        self._folder.cleanup()

    def measure(self, mechanism: str, texts: int, peers: int, seconds: float, pause: float) -> dict[str, Any]:
        """Run one load on some of the fronts, and return its figures."""
        in_flight = min(max(TEXTS_IN_FLIGHT // texts, FEWEST_IN_FLIGHT), MOST_IN_FLIGHT)
        begin = time.monotonic() + WARM
        command = {
            "mechanism": mechanism,
            "texts": texts,
            "in_flight": 1 if pause else in_flight,
            "pause": pause,
            "begin": begin,
            "end": begin + seconds,
        }
        used = [self.engine, *self.fronts[:peers]]
        for child in used:
            assert child.stdin is not None
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
        engine, *fronts = (json.loads(read_line(child)) for child in used)
        messages = sum(front["messages"] for front in fronts)
        figures: dict[str, Any] = {
            "messages_per_s": messages / seconds,
            "texts_per_s": messages * texts / seconds,
            "engine_cpu_us": 1e6 * engine["cpu_seconds"] / max(messages, 1),
            "front_cpu_us": 1e6 * sum(front["cpu_seconds"] for front in fronts) / max(messages, 1),
        }
        if pause:
            trips = sorted(trip for front in fronts for trip in front["round_trips"])
            if trips:
                places = {"p50_us": len(trips) // 2, "p99_us": int(len(trips) * 0.99)}
                figures |= {name: 1e6 * trips[place] for name, place in places.items()}
        return figures


def read_line(child: subprocess.Popen[str]) -> str:
    """Return a line of a child's output.

    Raises:
        RuntimeError: the process ended, or did not answer in time.
    """
    assert child.stdout is not None
    timer = threading.Timer(PATIENCE, child.kill)
    timer.start()
    try:
        text = child.stdout.readline()
    finally:
        timer.cancel()
    if not text:
        raise RuntimeError(f"a process of the benchmark ended or gave no answer in {PATIENCE:g} s")
    return text


def interpreters() -> dict[str, Any]:
    """Report whether this interpreter is free-threaded, and the free-threaded interpreters on the PATH."""
    names = [f"python3.{minor}t" for minor in range(13, 17)]
    return {
        "python": platform.python_version(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "free_threaded_installed": [path for name in names if (path := shutil.which(name))],
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [
        f"{'texts':>5} {'peers':>5}  {'mechanism':9} {'messages/s':>11} {'texts/s':>12} {'engine us':>10} {'front us':>9}"
        f" {'p50 us':>8} {'p99 us':>8}"
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['texts']:5} {row['peers']:5}  {row['mechanism']:9} {row['messages_per_s']:11,.0f} "
            f"{row['texts_per_s']:12,.0f} {row['engine_cpu_us']:10.1f} {row['front_cpu_us']:9.1f}"
            f" {row.get('p50_us', 0):8.0f} {row.get('p99_us', 0):8.0f}"
        )
    lines.append("engine us, front us: CPU time of a message at full load; p50, p99: round trip at light load")
    found = report["interpreters"]["free_threaded_installed"]
    lines.append(f"free-threaded interpreters: {', '.join(found) or 'none is installed'}")
    return "\n".join(lines)


def run_child(role: str, folder: str, text: str) -> None:
    """Run as a process of the benchmark."""
    memories, events = [], []
    for memory, first, second in json.loads(text):
        memories.append(memoryview(mmap.mmap(memory, 2 * Half.SIZE)))
        events.append((first, second))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if role == "engine":
            runner.run(Engine().run(Path(folder), memories, events))
        else:
            runner.run(Front().run(Path(folder), memories[0], events[0]))


def main() -> None:
    """Run the benchmark, and print the table."""
    if sys.argv[1:2] == ["--role"]:
        run_child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of a throughput; a round trip gets half")
    parser.add_argument("--peers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--limit", type=float, default=58.0, help="seconds after which no round is started")
    args = parser.parse_args()
    started = time.monotonic()
    cases = [(texts, peers, name) for texts in SIZES for peers in args.peers for name in MECHANISMS]
    rounds: dict[tuple[int, int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    with Children(max(args.peers)) as children:
        for number in range(args.rounds):
            round_started = time.monotonic()
            for texts, peers, name in cases if number % 2 == 0 else cases[::-1]:
                full = children.measure(name, texts, peers, args.seconds, 0.0)
                light = children.measure(name, texts, peers, args.seconds / 2, PAUSE)
                trips = {key: value for key, value in light.items() if key.startswith("p")}
                rounds[texts, peers, name].append(full | trips)
            now = time.monotonic()
            if now - started + (now - round_started) > args.limit:
                break
    rows = []
    for (texts, peers, name), results in rounds.items():
        medians = {key: statistics.median(each[key] for each in results) for key in results[0]}
        rows.append({"texts": texts, "peers": peers, "mechanism": name, "rounds": len(results), **medians})
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "interpreters": interpreters(),
        "seconds": time.monotonic() - started,
        "rows": rows,
    }
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=1))
    print(table(report))
    print(f"{report['seconds']:.0f} s, {rows[0]['rounds']} rounds")


if __name__ == "__main__":
    main()
