"""An instance of three that is killed under load: failed requests, and the time until none fails and until it is back.

    python -m benchmarks.cluster.killed ARTIFACT [--rate 120] [--seconds 30] [--json]

Requests of one text are sent at a fixed rate through HAProxy, whether earlier ones were answered or not. After a third of
the time an instance is killed with SIGKILL, after two thirds it is started again; the load ends some seconds after it is
back. Compute is simulated as in instances.py. The exit status is 1 if more than 0.5 % of the requests fail, one fails with
another status than 502 or 503, or one fails later than three seconds after the kill, or the instance has no request within
three seconds after it was ready again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from dataclasses import dataclass, field

from .instances import SECONDS_A_TEXT
from .running import MODEL, Simulated, haproxy, simulated

HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)

#: Longest wait in seconds for a request to the instance that was started again.
MOST = 30.0


@dataclass
class Outcome:
    """`Outcome`: the requests of a run.

    Attributes:
        sent: number of requests.
        failures: time of the end of each failed request, in seconds, and its status or exception.
    """

    sent: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)


class Client:
    """`Client`: requests over kept connections; each has one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, text: str) -> str:
        """Return the status of a request, or `closed` if the connection ended without an answer."""
        body = json.dumps({"model": MODEL, "input": text, "encoding_format": "base64"}).encode()
        try:
            pair = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = pair
            writer.write(HEAD % len(body) + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            return "closed"
        self._idle.append(pair)
        return head.split()[1]

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()


async def send(port: int, rate: float, ended: asyncio.Event, outcome: Outcome) -> None:
    """Send requests at a rate until an event, and wait for their answers."""
    client = Client(port)

    async def one(number: int) -> None:
        status = await client.post(f"text {number}")
        if status != "200":
            outcome.failures.append((time.monotonic(), status))

    async with asyncio.TaskGroup() as tasks:
        start = time.monotonic()
        while not ended.is_set():
            due = int((time.monotonic() - start) * rate) + 1
            while outcome.sent < due:
                tasks.create_task(one(outcome.sent))
                outcome.sent += 1
            await asyncio.sleep(0.002)
    client.close()


def answered(instance: Simulated) -> float:
    """Return the number of embedding requests that an instance has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{instance.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    mark = 'fletcher_requests_total{door="http",route="/v1/embeddings"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(mark))


async def run(port: int, victim: Simulated, options: argparse.Namespace) -> tuple[Outcome, float, float]:
    """Return the requests, the time of the kill, and the seconds from the instance's readiness to its first request."""
    outcome, ended = Outcome(), asyncio.Event()
    sending = asyncio.create_task(send(port, options.rate, ended, outcome))
    await asyncio.sleep(options.seconds / 3)
    await asyncio.to_thread(victim.kill)
    killed = time.monotonic()
    await asyncio.sleep(options.seconds / 3)
    await asyncio.to_thread(victim.start)
    ready = time.monotonic()
    while not await asyncio.to_thread(answered, victim) and time.monotonic() < ready + MOST:
        await asyncio.sleep(0.02)
    back = time.monotonic() - ready
    await asyncio.sleep(options.seconds / 6)
    ended.set()
    await sending
    return outcome, killed, back


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="folder of a small artifact")
    parser.add_argument("--rate", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with simulated(options.artifact, 3, SECONDS_A_TEXT) as instances:
        ports = {f"s{number}": each.port for number, each in enumerate(instances)}
        with haproxy(ports) as balancer:
            outcome, killed, back = asyncio.run(run(balancer.port, instances[1], options))
    statuses = sorted({status for _, status in outcome.failures})
    last = max((moment - killed for moment, _ in outcome.failures), default=0.0)
    result = {
        "requests": outcome.sent,
        "failed": len(outcome.failures),
        "share": len(outcome.failures) / outcome.sent,
        "statuses": statuses,
        "last_failure_after_seconds": last,
        "back_after_seconds": back,
    }
    passed = result["share"] <= 0.005 and set(statuses) <= {"502", "503"} and last <= 3.0 and back <= 3.0  # type: ignore[operator]
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{outcome.sent} requests, {len(outcome.failures)} failed ({100 * len(outcome.failures) / outcome.sent:.2f} %)"
        )
        print(f"statuses of failures: {', '.join(statuses) or 'none'}")
        print(f"last failure {last:.2f} s after the kill; requests again {back:.2f} s after the instance was ready")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
