"""Fuzzing of HTTP and Flight with 100,000 messages that are nearly valid: no 5xx, no hang, no leak of internals.

    python benchmarks/serve/fuzz.py [--messages 100000] [--seed 1] [--workers 8]

The server runs in a separate process over the tests' encoder, whose vectors are known and take no time, because HTTP
and Flight are tested. Half of the messages of tests/serve/http/mutations.py are raw bytes over HTTP, the other half
gRPC messages with mutated descriptors, tickets, schemas and record batches. Valid requests in between must be answered
correctly. The exit status is 1, and the message is printed, if an answer is a 5xx, is INTERNAL with a message of
Fletcher's, is too late, or contains internals. The default takes about five minutes.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import multiprocessing
import os
import random
import re
import socket
import sys
import threading
import time
import urllib.request
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.serve.fake_encoder import FakeEncoder, expected
from tests.serve.flight.raw_flight import call, exchange
from tests.serve.http.messages import draw_message
from tests.serve.http.mutations import LEAK, FlightMessage, mutate_flight

#: Time limit of an answer, seconds.
PATIENCE = 20.0

#: Messages between two valid requests.
EVERY = 500


def serve(pipe: Connection) -> None:
    """Run as the server's process."""
    from fletcher.serve.observe import logs
    from fletcher.serve.server import Server
    from fletcher.serve.server_options import ServerOptions

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # gRPC logs every message that is not a protocol buffer
    logs.install("CRITICAL")
    logging.getLogger("uvicorn").setLevel("CRITICAL")  # uvicorn logs every line that is not HTTP
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", max_body=1 << 20, body_seconds=2.0, drain_seconds=5, admin="on"
    )
    with Server(FakeEncoder(), options) as server:
        pipe.send((server.addresses.http, server.addresses.flight))
        pipe.recv()


class TroubleError(Exception):
    """`TroubleError`: an answer that is not allowed."""


def try_http(port: int, message: bytes, *, wait: bool) -> str:
    """Send raw bytes; `wait` keeps the connection open for an answer, so the server computes valid requests."""
    received = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1.0 if wait else PATIENCE)
        try:
            connection.sendall(message)
            if wait:
                received = connection.recv(1 << 16)
            else:
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(1 << 16):
                    received += part
        except ConnectionError:
            pass  # the server closed the connection
        except TimeoutError:
            if not wait:
                raise TroubleError("no answer in time") from None
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
    if any(status >= 500 for status in statuses):
        raise TroubleError(repr(received[:2000]))
    if leak := LEAK.search(received):
        raise TroubleError(f"{leak[0]!r} in {received[:2000]!r}")
    return str(statuses[0]) if statuses else "hung up"


def try_flight(channel: grpc.Channel, message: FlightMessage) -> str:
    """Make a call, and return its status code."""
    try:
        if message.streams:
            exchange(channel, message.parts, timeout=PATIENCE, method=message.method)
        else:
            call(channel, message.method, message.parts[0], timeout=PATIENCE)
    except grpc.RpcError as error:
        code, words = error.code(), error.details() or ""
        # gRPC itself answers INTERNAL, without a message of Fletcher's, to bytes that are not a protocol buffer.
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            raise TroubleError(f"{code} {words}") from None
        if code is grpc.StatusCode.INTERNAL and words:
            raise TroubleError(f"{code} {words}") from None
        if leak := LEAK.search(words.encode()):
            raise TroubleError(f"{leak[0]!r} in {words}") from None
        return str(code.name)
    return "OK"


def check_alive(http: str) -> None:
    """Check that a valid request is answered correctly."""
    body = json.dumps({"model": "fake-model", "input": "ab", "encoding_format": "base64"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{http}/v1/embeddings", body), timeout=PATIENCE) as answer:
        vector = base64.b64decode(json.load(answer)["data"][0]["embedding"])
    if vector != expected("ab").tobytes():
        raise TroubleError("a valid request got another vector")


def work(urls: tuple[str, str], count: int, seed: int, counts: Counter[str], troubles: list[str]) -> None:
    """Send the messages of one thread."""
    chance = random.Random(seed)
    port = int(urls[0].rpartition(":")[2])
    with grpc.insecure_channel(urls[1].removeprefix("grpc://")) as channel:
        for number in range(count):
            message: bytes | FlightMessage
            try:
                if number % 2:
                    message = mutate_flight(chance)
                    counts[f"flight {message.method} {try_flight(channel, message)}"] += 1
                else:
                    drawn = draw_message(chance)
                    message = drawn.data
                    counts[f"http {try_http(port, message, wait=drawn.whole)}"] += 1
                if number % EVERY == 0:
                    check_alive(urls[0])
            except TroubleError as error:
                troubles.append(f"{error}\n  was the answer to {message!r}")
            except OSError as error:
                troubles.append(f"the server is gone: {error}\n  after {message!r}")
                return


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    pipe, servers_pipe = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(servers_pipe,))
    server.start()
    urls = pipe.recv()
    watched = psutil.Process(server.pid)
    before, started = watched.memory_info().rss, time.perf_counter()
    counts: list[Counter[str]] = [Counter() for _ in range(options.workers)]
    troubles: list[str] = []
    share = options.messages // options.workers
    threads = [
        threading.Thread(target=work, args=(urls, share, options.seed * 1000 + number, counts[number], troubles))
        for number in range(options.workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if server.is_alive():
        check_alive(urls[0])
        after = watched.memory_info().rss
        pipe.send("stop")
    server.join(30)
    result = {
        "messages": share * options.workers,
        "seconds": round(time.perf_counter() - started, 1),
        "answers": dict(sorted(sum(counts, Counter()).items())),
        "memory_mb": [round(before / 1e6, 1), round(after / 1e6, 1)] if server.exitcode == 0 else "the server died",
        "exit_code": server.exitcode,
        "troubles": len(troubles),
    }
    print(json.dumps(result, indent=2))
    if troubles or server.exitcode:
        print("\n".join(troubles[:20]), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
