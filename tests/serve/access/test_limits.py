"""Limits of clients at the doors: HTTP, Flight, several processes; rights of keys; caches with a salt."""

from __future__ import annotations

import json
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.limits.quota import read_quota
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

pytestmark = pytest.mark.heavy  # by the seconds that it waits

SECONDS = 20.0
BODY = {"model": "fake-model", "input": "ab"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def serve(file: Path | None, encoder: FakeEncoder | None = None, **options: Any) -> Server:
    keys = None if file is None else str(file)
    chosen = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", keys=keys, drain_seconds=5, **options)
    return Server(encoder or FakeEncoder(), chosen)


def client(server: Server | Supervisor, key: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=str(server.addresses.http), headers=headers, timeout=SECONDS)


def call_options(key: str) -> fl.FlightCallOptions:
    return fl.FlightCallOptions(timeout=SECONDS, headers=[(b"authorization", f"Bearer {key}".encode())])


def exchange(url: str, key: str, batches: int, **options: Any) -> int:
    """Embed batches over one stream; return the number of rows that came back."""
    batch = pa.RecordBatch.from_pydict({"text": ["abcdefgh"] * 4})
    with fl.connect(url) as flight:
        descriptor = fl.FlightDescriptor.for_command(json.dumps(options).encode())
        writer, reader = flight.do_exchange(descriptor, call_options(key))
        with writer:
            writer.begin(batch.schema)
            for _ in range(batches):
                writer.write_batch(batch)
            writer.done_writing()
            return int(reader.read_all().num_rows)


def test_a_client_over_its_limit_gets_429_and_another_one_is_answered(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=0.1/s:3"]))
    bob = add_key(file, "bob")
    with serve(file) as server, client(server, ann) as http:
        answers = [http.post("/v1/embeddings", json=BODY) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        refused = answers[-1]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 9 <= int(refused.headers["retry-after"]) <= 10
        assert 9000 <= int(refused.headers["retry-after-ms"]) <= 10_000
        with client(server, bob) as other:
            assert [other.post("/v1/embeddings", json=BODY).status_code for _ in range(9)] == [200] * 9


def test_answers_tell_the_limits_in_both_forms(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=1/s:60", "tokens=10/s:100", "tokens=1000/day"]))
    with serve(file) as server, client(server, ann) as http:
        headers = http.post("/v1/embeddings", json=BODY).headers
    # OpenAI: developers.openai.com/api/docs/guides/rate-limits
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers["x-ratelimit-limit-tokens"] == "100"
    assert int(headers["x-ratelimit-remaining-tokens"]) >= 90
    # draft-ietf-httpapi-ratelimit-headers-11: lists of strings with parameters
    policies = dict(part.split(";", 1) for part in headers["ratelimit-policy"].split(", "))
    states = dict(part.split(";", 1) for part in headers["ratelimit"].split(", "))
    assert policies['"requests"'] == 'q=60;qu="requests";w=60'
    assert policies['"tokens-day"'].startswith("q=1000;") and policies['"tokens-day"'].endswith("w=86400")
    assert states.keys() == policies.keys()
    assert states['"requests"'].startswith("r=59;t=")


def test_openais_client_waits_as_long_as_the_server_says(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=2/s:1"]))
    with serve(file) as server, openai.OpenAI(base_url=f"{server.addresses.http}/v1", api_key=ann) as sdk:
        begun = time.monotonic()
        for _ in range(4):  # the client repeats what is refused, after `retry-after-ms`
            assert sdk.embeddings.create(**BODY).usage.total_tokens == 4  # type: ignore[arg-type]
        assert 1.4 < time.monotonic() - begun < 5
        with pytest.raises(openai.RateLimitError):
            for _ in range(2):
                sdk.with_options(max_retries=0).embeddings.create(**BODY)  # type: ignore[arg-type]


def test_tokens_are_charged_as_the_model_saw_them(file: Path) -> None:
    """A text of 2 characters has 4 tokens: 25 requests have 100."""
    ann = add_key(file, "ann", limits=read_quota(["tokens=0.001/s:100"]))
    with serve(file) as server, client(server, ann) as http:
        statuses = [http.post("/v1/embeddings", json=BODY).status_code for _ in range(27)]
        assert statuses[:24] == [200] * 24
        assert statuses[-1] == 429
        assert (
            http.post("/v1/embeddings", json=BODY)
            .json()["error"]["message"]
            .startswith("this client is over its limit of tokens")
        )


def test_bytes_and_open_requests(file: Path) -> None:
    encoder = FakeEncoder()
    ann = add_key(file, "ann", limits=read_quota(["bytes=1/s:1000"]))
    bob = add_key(file, "bob", limits=read_quota(["in_flight=2"]))
    with serve(file, encoder) as server, client(server, ann) as http, client(server, bob) as other:
        long = BODY | {"input": "a" * 900}
        assert [http.post("/v1/embeddings", json=long).status_code for _ in range(2)] == [200, 429]
        encoder.gate.clear()
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(other.post, "/v1/embeddings", json=BODY | {"input": text}) for text in ("c", "d")]
            until = time.monotonic() + SECONDS
            while server.models.open_requests < 2:
                assert time.monotonic() < until
                time.sleep(0.01)
            refused = other.post("/v1/embeddings", json=BODY)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            encoder.gate.set()
            assert [each.result().status_code for each in waiting] == [200, 200]
        assert other.post("/v1/embeddings", json=BODY).status_code == 200


def test_a_client_that_leaves_gives_its_place_back(file: Path) -> None:
    encoder = FakeEncoder()
    ann = add_key(file, "ann", limits=read_quota(["in_flight=1"]))
    with serve(file, encoder) as server, client(server, ann) as http:
        encoder.gate.clear()
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/embeddings", json=BODY, timeout=0.3)
        encoder.gate.set()
        until = time.monotonic() + SECONDS
        while http.post("/v1/embeddings", json=BODY).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_without_keys_an_address_is_a_client(file: Path) -> None:
    with serve(None, limit=("requests=0.001/s:3",)) as server, client(server) as http:
        assert [http.post("/v1/embeddings", json=BODY).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert http.get("/health").status_code == 200
        with (
            fl.connect(str(server.addresses.flight)) as flight,
            pytest.raises(fl.FlightUnavailableError, match="limit"),
        ):
            flight.get_flight_info(fl.FlightDescriptor.for_path("embed"))


def test_probes_and_metrics_are_never_limited(file: Path) -> None:
    """A probe calls the server by the address of its container."""
    probe = {"host": "10.1.2.3:8080"}
    with serve(None, limit=("requests=0.001/s:1", "in_flight=1", "bytes=0.001/s:1")) as server, client(server) as http:
        assert [http.post("/v1/embeddings", json=BODY).status_code for _ in range(2)] == [200, 429]
        for path in ("/health", "/ready", "/livez", "/readyz", "/metrics"):
            headers = {} if path == "/metrics" else probe
            answers = [http.get(path, headers=headers) for _ in range(5)]
            assert [answer.status_code for answer in answers] == [200] * 5, path
            assert not any("ratelimit" in name for answer in answers for name in answer.headers)
        with fl.connect(str(server.addresses.flight)) as flight:
            for action in ("health", "stats") * 5:
                assert list(flight.do_action(action))
    eye = add_key(file, "eye", "monitor", limits=read_quota(["requests=0.001/s:1"]))
    with serve(file, limit=("requests=0.001/s:1",)) as server:
        with client(server) as http:
            assert [http.get(path).status_code for path in ("/health", "/ready") * 5] == [200] * 10
        with client(server, eye) as http:
            assert [http.get("/metrics").status_code for _ in range(5)] == [200] * 5


def test_flight_has_the_same_limits_and_headers(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=0.1/s:3"]))

    class Reader(fl.ClientMiddleware):  # type: ignore[misc]
        def received_headers(self, headers: Any) -> None:
            seen.append({name: values[0] for name, values in headers.items()})

    class Factory(fl.ClientMiddlewareFactory):  # type: ignore[misc]
        def start_call(self, info: Any) -> Reader:
            return Reader()

    seen: list[dict[str, str]] = []
    with serve(file) as server, fl.connect(str(server.addresses.flight), middleware=[Factory()]) as flight:
        path = fl.FlightDescriptor.for_path("embed")
        for _ in range(3):
            flight.get_flight_info(path, call_options(ann))
        told = [headers["x-ratelimit-remaining-requests"] for headers in seen if "ratelimit" in headers]
        assert told == ["2", "1", "0"]
        with pytest.raises(fl.FlightUnavailableError) as refused:
            flight.get_flight_info(path, call_options(ann))
        info = json.loads(refused.value.extra_info)
        assert info["type"] == "RateLimitError"
        assert 9 <= info["retry_after"] <= 10
        assert info["headers"]["x-ratelimit-limit-requests"] == "3"


@pytest.mark.parametrize("door", ["flight", "ndjson"])
def test_a_stream_waits_instead_of_failing(file: Path, door: str) -> None:
    """30 batches of 4 texts of 8 characters have 1,200 tokens, 120 of them at once, and 600 a second after that.

    What is read ahead, at most 256 tokens here, is charged by an estimate that may be too low.
    """
    ann = add_key(file, "ann", limits=read_quota(["tokens=600/s:120"]))
    with serve(file) as server:
        begun = time.monotonic()
        if door == "flight":
            assert exchange(str(server.addresses.flight), ann, 30) == 120
            assert time.monotonic() - begun > 1
        else:
            body = BODY | {"input": [f"abcd {number}" for number in range(200)]}
            with client(server, ann) as http:
                lines = http.post("/v1/embeddings", json=body, headers={"accept": "application/x-ndjson"}).text.split(
                    "\n"
                )
            assert len([line for line in lines if '"embedding"' in line]) == 200
            assert time.monotonic() - begun > 0.5


def test_a_stream_ends_when_the_day_is_used_up(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["tokens=50/day"]))
    with serve(file) as server, pytest.raises((fl.FlightUnavailableError, pa.ArrowException), match="of this day"):
        exchange(str(server.addresses.flight), ann, 6)


def test_a_key_is_for_its_models_routes_and_time(file: Path) -> None:
    ann = add_key(file, "ann", models=("other",))
    bob = add_key(file, "bob", routes=("/v1/*", "flight:info"))
    old = add_key(file, "old", expires=datetime.now(UTC) - timedelta(seconds=1))
    new = add_key(file, "new", expires=datetime.now(UTC) + timedelta(hours=1))
    with serve(file) as server:
        with client(server, ann) as http:
            refused = http.post("/v1/embeddings", json=BODY)
            assert (refused.status_code, "fake-model" in refused.text) == (403, True)
            assert http.post("/tokenize", json={"inputs": "ab"}).status_code == 403
        with pytest.raises(fl.FlightUnauthorizedError, match="fake-model"):
            exchange(str(server.addresses.flight), ann, 1)
        with client(server, bob) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 200
            assert http.post("/embed", json={"inputs": "ab"}).status_code == 403
        with fl.connect(str(server.addresses.flight)) as flight:
            flight.get_flight_info(fl.FlightDescriptor.for_path("embed"), call_options(bob))
            with pytest.raises(fl.FlightUnauthorizedError, match="flight:get"):
                flight.do_get(fl.Ticket(b'{"texts": ["ab"]}'), call_options(bob)).read_all()
        with client(server, old) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 401
        with client(server, new) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 200


def test_a_key_has_a_highest_class(file: Path) -> None:
    ann = add_key(file, "ann", priority="bulk")
    bob = add_key(file, "bob", priority="normal")
    with serve(file) as server:
        with client(server, ann) as http:
            for headers in ({}, {"x-priority": "interactive"}, {"x-priority": "normal"}):
                assert http.post("/v1/embeddings", json=BODY, headers=headers).headers["x-priority"] == "bulk"
        with client(server, bob) as http:
            answer = http.post("/v1/embeddings", json=BODY, headers={"x-priority": "interactive"})
            assert answer.headers["x-priority"] == "normal"
            assert "x-priority" not in http.post("/v1/embeddings", json=BODY, headers={"x-priority": "bulk"}).headers


def test_metrics_are_for_the_role_monitor(file: Path) -> None:
    user, monitor, admin = add_key(file, "u"), add_key(file, "m", "monitor"), add_key(file, "a", "admin")
    with serve(file) as server:
        for key, status in ((user, 403), (monitor, 200), (admin, 200)):
            with client(server, key) as http:
                assert http.get("/metrics").status_code == status
            with fl.connect(str(server.addresses.flight)) as flight:
                if status == 200:
                    assert list(flight.do_action("stats", call_options(key)))
                else:
                    with pytest.raises(fl.FlightUnauthorizedError):
                        list(flight.do_action("stats", call_options(key)))
        with client(server, monitor) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 403


def test_equal_open_requests_of_two_clients_are_computed_apart_with_a_salt(file: Path) -> None:
    keys = [add_key(file, "ann", salt=True), add_key(file, "bob"), add_key(file, "eve")]
    encoder = FakeEncoder()
    with serve(file, encoder) as server, ThreadPoolExecutor(3) as pool:
        encoder.gate.clear()

        def ask(key: str) -> int:
            with client(server, key) as http:
                return http.post("/v1/embeddings", json=BODY).status_code

        answers = [pool.submit(ask, key) for key in keys]
        until = time.monotonic() + SECONDS
        while (joined := server.models.metrics.joined._value.get()) < 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.3)
        encoder.gate.set()
        assert [answer.result() for answer in answers] == [200, 200, 200]
        assert joined == server.models.metrics.joined._value.get() == 1  # bob's and eve's
        assert sum(map(len, encoder.batches)) == 2


def test_two_servers_share_a_limit_in_redis(file: Path, redis_url: str) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=0.001/s:5", "in_flight=3"]))
    with serve(file, limit_store=redis_url) as one, serve(file, limit_store=redis_url) as two:
        with client(one, ann) as first, client(two, ann) as second:
            statuses = [http.post("/v1/embeddings", json=BODY).status_code for http in (first, second) * 3]
            assert statuses == [200] * 5 + [429]
            assert first.post("/v1/embeddings", json=BODY).headers["x-ratelimit-limit-requests"] == "5"
        with fl.connect(str(two.addresses.flight)) as flight, pytest.raises(fl.FlightUnavailableError, match="limit"):
            flight.get_flight_info(fl.FlightDescriptor.for_path("embed"), call_options(ann))


def _closed_store() -> str:
    """Return the URL of a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{free.getsockname()[1]}/0"


def _await_counts(http: httpx.Client, failures: int, missed: int) -> None:
    """Wait until the metrics count so many failed calls to the store of limits and charges that it has not got."""
    wanted = {"fletcher_limit_store_failures_total": failures, "fletcher_limit_store_missed_total": missed}
    until = time.monotonic() + SECONDS
    while True:  # the end of a request is charged after its answer
        lines = [
            line.split() for line in http.get("/metrics").text.splitlines() if line.startswith("fletcher_limit_st")
        ]
        counts = {name: float(value) for name, value in lines if name.endswith("_total")}
        if counts == wanted:
            return
        assert time.monotonic() < until, counts
        time.sleep(0.02)


def test_a_store_that_is_down_opens_the_limits_to_this_server_and_the_metrics_say_so(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=0.001/s:3", "in_flight=2"]))
    eye = add_key(file, "eye", "monitor")
    with serve(file, limit_store=_closed_store()) as server:
        with client(server, ann) as http:
            assert [http.post("/v1/embeddings", json=BODY).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        with client(server, eye) as http:
            # One call, and none for five seconds. The begin of each request is charged; its end counts nothing with a limit.
            _await_counts(http, failures=1, missed=5)


def test_a_store_that_is_down_can_close_the_server_to_clients_with_limits(file: Path) -> None:
    ann = add_key(file, "ann", limits=read_quota(["requests=1000/s", "in_flight=1"]))
    bob = add_key(file, "bob")
    eye = add_key(file, "eye", "monitor", limits=read_quota(["requests=1000/s"]))
    with serve(file, limit_store=_closed_store(), limit_store_down="refuse") as server:
        with client(server, ann) as http:
            for _ in range(3):
                refused = http.post("/v1/embeddings", json=BODY)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                assert refused.json()["error"]["code"] == "limits_unavailable"
            assert [http.get(path).status_code for path in ("/health", "/ready")] == [200, 200]
        with fl.connect(str(server.addresses.flight)) as flight:
            with pytest.raises(fl.FlightUnavailableError, match="store of limits"):
                flight.get_flight_info(fl.FlightDescriptor.for_path("embed"), call_options(ann))
            flight.get_flight_info(fl.FlightDescriptor.for_path("embed"), call_options(bob))
        with client(server, bob) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 200
        with client(server, eye) as http:
            _await_counts(http, failures=1, missed=4)
            assert 'fletcher_errors_total{type="LimitStoreError"} 4.0' in http.get("/metrics").text


@pytest.fixture(scope="module")
def cluster(
    tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Supervisor, dict[str, str]]]:
    """Return a server of two fronts and an engine process, and its keys."""
    file = tmp_path_factory.mktemp("cluster") / "keys.json"
    keys = {
        "ann": add_key(file, "ann", limits=read_quota(["requests=0.001/s:20"])),
        "bob": add_key(file, "bob"),
        "cat": add_key(file, "cat", salt=True),
        "boss": add_key(file, "boss", "admin"),
        "tim": add_key(file, "tim", limits=read_quota(["requests=0.001/s:6"])),
        "joe": add_key(file, "joe", limits=read_quota(["in_flight=3"])),
        "zoe": add_key(file, "zoe", limits=read_quota(["tokens=0.001/s:100000"])),
        "eye": add_key(file, "eye", "monitor", limits=read_quota(["requests=0.001/s:1"])),
    }
    options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", fronts=2, keys=str(file), drain_seconds=5)
    with Supervisor([ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")], options) as server:
        yield server, keys


def test_a_limit_holds_over_all_processes_exactly(cluster: tuple[Supervisor, dict[str, str]]) -> None:
    server, keys = cluster
    statuses: Counter[int] = Counter()

    def ask(number: int) -> int:
        with client(server, keys["ann"]) as http:  # a connection of its own, to the next front
            if number % 4 == 0:
                return http.get("/v1/models").status_code  # the engine process answers it
            return http.post("/v1/embeddings", json={"model": "tiny", "input": f"text {number}"}).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses.update(pool.map(ask, range(40)))
    assert statuses == {200: 20, 429: 20}
    with client(server, keys["bob"]) as http:
        assert http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code == 200


def test_flight_and_http_of_all_processes_share_the_limit(cluster: tuple[Supervisor, dict[str, str]]) -> None:
    server, keys = cluster
    path, done = fl.FlightDescriptor.for_path("embed"), 0
    for _ in range(4):
        with fl.connect(str(server.addresses.flight)) as flight:
            flight.get_flight_info(path, call_options(keys["tim"]))
            done += 1
    with client(server, keys["tim"]) as http:
        statuses = [http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    with fl.connect(str(server.addresses.flight)) as flight, pytest.raises(fl.FlightUnavailableError, match="limit"):
        flight.get_flight_info(path, call_options(keys["tim"]))


def test_open_requests_count_over_all_processes(cluster: tuple[Supervisor, dict[str, str]]) -> None:
    server, keys = cluster
    url = httpx.URL(str(server.addresses.http))
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {keys['joe']}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    ).encode()

    def ask() -> int:
        with client(server, keys["joe"]) as http:
            return http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code

    def open_request() -> socket.socket:
        connection = socket.create_connection((url.host, url.port), SECONDS)
        connection.sendall(head)
        return connection

    def wait_for(status: int) -> None:
        until = time.monotonic() + SECONDS
        while ask() != status:
            assert time.monotonic() < until
            # A request of `ask` that came before the last open request was one of the three; the open one was refused.
            for refused in select.select(opened, (), (), 0)[0]:
                refused.close()
                opened[opened.index(refused)] = open_request()
            time.sleep(0.02)

    opened: list[socket.socket] = []
    try:
        opened += [open_request() for _ in range(3)]  # the supervisor passes connections to the fronts in turn
        wait_for(429)
        assert [ask() for _ in range(4)] == [429] * 4  # by both fronts
        opened.pop().close()
        wait_for(200)
    finally:
        for connection in opened:
            connection.close()


def test_tokens_count_over_all_processes_exactly(cluster: tuple[Supervisor, dict[str, str]]) -> None:
    server, keys = cluster
    total = 0
    for number in range(8):
        with client(server, keys["zoe"]) as http:
            answer = http.post(
                "/v1/embeddings", json={"model": "tiny", "input": f"some words {number} " * (number + 1)}
            )
            total += answer.json()["usage"]["total_tokens"]
    with client(server, keys["zoe"]) as http:
        until = time.monotonic() + SECONDS
        while (left := http.get("/v1/models").headers["x-ratelimit-remaining-tokens"]) != str(100_000 - total):
            # A front charges the real number after it has sent the answer.
            assert time.monotonic() < until, (left, total)
            time.sleep(0.02)


def test_probes_of_a_server_of_several_processes_are_never_limited(cluster: tuple[Supervisor, dict[str, str]]) -> None:
    server, keys = cluster
    for _ in range(4):
        with client(server, keys["eye"]) as http:
            assert [http.get(path).status_code for path in ("/metrics", "/health", "/ready")] == [200] * 3


@pytest.mark.slow
def test_all_processes_count_the_failures_of_the_store(file: Path, tiny_artifact: Path) -> None:
    keys = {
        "ann": add_key(file, "ann", limits=read_quota(["requests=0.001/s:4"])),
        "eye": add_key(file, "eye", "monitor"),
    }
    options = ServerOptions(
        http="127.0.0.1:0", flight="off", fronts=2, keys=str(file), limit_store=_closed_store(), drain_seconds=5
    )
    with Supervisor([ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")], options) as server:
        statuses = []
        for _ in range(6):
            with client(server, keys["ann"]) as http:
                statuses.append(http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).status_code)
        assert statuses == [200] * 4 + [429] * 2  # the processes count together
        with client(server, keys["eye"]) as http:
            _await_counts(http, failures=2, missed=6)


@pytest.mark.parametrize(("second", "hits"), [("bob", 1), ("cat", 0)])
def test_the_cache_of_the_engine_process_is_salted(
    cluster: tuple[Supervisor, dict[str, str]], second: str, hits: int
) -> None:
    server, keys = cluster

    def count() -> float:
        with client(server, keys["boss"]) as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("fletcher_vector_cache_hits_total"))

    body = {"model": "tiny", "input": f"a text that boss sent before {second}"}
    for key in ("boss", second):
        before = count()
        with client(server, keys[key]) as http:
            assert http.post("/v1/embeddings", json=body).status_code == 200
    assert count() - before == hits
