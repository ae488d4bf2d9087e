"""`fletcher-serve cluster serve` on a real cluster of one machine: each trap of Ray Serve, and what deployments promise."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

import httpx
import psutil  # type: ignore[import-untyped]
import pyarrow.flight as fl
from sentence_transformers import SentenceTransformer

from fletcher.convert.export.export import export
from fletcher.serve.access.keys_file import add_key

from ....clients.reference import save_prompted
from ....doubles.collector import Collector
from ....doubles.longbow import LongbowDouble
from ...observe.test_tracing import PARENT, TRACE, TRACEPARENT
from .command import Command, free_ports, run_command, started
from .load import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TEXTS = ["A man is eating food.", "How do I reset my password?", "hello world"]

FILE = """
[ray]
address = "local"
port = {ports[0]}
metrics_port = {ports[1]}
stats_port = {ports[2]}
fallback_port = {ports[49]}
replica_ports = "{first}-{last}"
leave_seconds = 1
stream_seconds = 60

[[ray.deployments]]
name = "plain"
min_replicas = 2
max_replicas = 2
cpus = 0.5
flight = "0"

[ray.deployments.server]
drain_seconds = 5.0
max_items = 20000
otlp = "{collector}"
longbow = "{longbow}"

[[ray.deployments.models]]
path = "tiny"
name = "tiny"
version = "{version}"
provider = "mlas"

[[ray.deployments]]
name = "keyed"
path_prefix = "/keyed"
min_replicas = 0
max_replicas = 2
cpus = 0.5
target_queue_seconds = 0.02
up_seconds = 1
down_seconds = 5
zero_seconds = 5

[ray.deployments.server]
keys = "keys.json"
admin = "on"
drain_seconds = 5.0

[[ray.deployments.models]]
path = "tiny"
name = "tiny"
provider = "mlas"
cache = 0
exact = true
"""


@dataclass
class Cluster:
    """A running command with its deployments."""

    url: str
    flight: list[str]
    key: str
    admin_key: str
    folder: Path
    ports: list[int]
    command: Command
    vectors: Any
    collector: Collector
    longbow: LongbowDouble
    version: int = 1

    def write(self, version: str) -> None:
        first = self.ports[3]
        places = {"collector": self.collector.url, "longbow": self.longbow.url}
        text = FILE.format(ports=self.ports, first=first, last=first + 40, version=version, **places)
        (self.folder / "cluster.toml").write_text(text)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Return a collector to which replicas send their spans, without compression."""
    with Collector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield collector


@pytest.fixture(scope="module")
def longbow() -> Iterator[LongbowDouble]:
    with LongbowDouble() as double:
        yield double


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, longbow: LongbowDouble
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    checkpoint = save_prompted(folder / "checkpoint")
    export(str(checkpoint), folder / "tiny")
    vectors = SentenceTransformer(str(checkpoint), device="cpu").encode_document(TEXTS)
    key = add_key(folder / "keys.json", "user")
    admin_key = add_key(folder / "keys.json", "boss", role="admin")
    ports = free_ports(50)
    url = f"http://127.0.0.1:{ports[0]}"
    made = Cluster(url, [], key, admin_key, folder, ports, None, vectors, collector, longbow)  # type: ignore[arg-type]
    made.write("1")
    with started(["cluster", "serve", "cluster.toml", "--json"], folder) as command:
        made.command = command
        written = command.wait_for('"flight"', count=2)
        made.flight = re.findall(r"grpc://[0-9.]+:\d+", written)
        yield made
        assert command.stop() == 0
    left = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
    assert left == []


def embed(url: str, texts: list[str], headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"input": texts, "model": "tiny", **fields}
    return httpx.post(f"{url}/v1/embeddings", json=body, headers=headers or {}, timeout=60)


def test_vectors_are_those_of_sentence_transformers(cluster: Cluster) -> None:
    for url, headers in ((cluster.url, {}), (f"{cluster.url}/keyed", {"authorization": f"Bearer {cluster.key}"})):
        answer = embed(url, TEXTS, headers)
        assert answer.status_code == 200, answer.text
        made = np.array([row["embedding"] for row in answer.json()["data"]])
        np.testing.assert_allclose(made, cluster.vectors, atol=1e-5)


def test_an_answer_has_one_request_id(cluster: Cluster) -> None:
    for sent in ({}, {"x-request-id": "mine-1"}):
        answer = embed(cluster.url, ["a"], sent)
        ids = [value for name, value in answer.headers.multi_items() if name == "x-request-id"]
        assert len(ids) == 1
        assert not sent or ids == ["mine-1"]


def test_one_trace_leads_from_the_client_through_a_replica_to_the_rows_of_longbow(cluster: Cluster) -> None:
    headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
    body = {"dataset": "docs", "documents": ["one"]}
    answer = httpx.post(f"{cluster.url}/v1/ingest", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    deadline = time.monotonic() + 60
    while not {"POST /v1/ingest", "compute", "longbow"} <= set(named := spans_of(cluster)) or not batches_of(cluster):
        assert time.monotonic() < deadline, sorted(named)
        time.sleep(0.2)
    request = named["POST /v1/ingest"]
    assert int.from_bytes(request.parent_span_id) == PARENT  # neither HAProxy nor Ray Serve has a span of its own
    assert named["longbow"].parent_span_id == named["compute"].parent_span_id == request.span_id
    (batch,) = batches_of(cluster)
    assert [span for span in cluster.collector.spans if span.name == "session" and span.parent_span_id == batch.span_id]
    (row,) = cluster.longbow.store.live("docs").drop_columns(["timestamp"]).to_pylist()
    assert json.loads(row["metadata"])["traceparent"] == f"00-{TRACE:032x}-{request.span_id.hex()}-01"
    assert cluster.collector.resource["service.instance.id"].startswith(f"{socket.gethostname()}/plain/")


def spans_of(cluster: Cluster) -> dict[str, Any]:
    """Return the spans of the trace of `TRACEPARENT`, by name."""
    return {span.name: span for span in cluster.collector.spans if int.from_bytes(span.trace_id) == TRACE}


def batches_of(cluster: Cluster) -> list[Any]:
    """Return the spans of the batches that computed a request of the trace: a batch links to its requests."""
    batches = [span for span in cluster.collector.spans if span.name == "batch"]
    return [span for span in batches if any(int.from_bytes(link.trace_id) == TRACE for link in span.links)]


def test_errors_of_replicas_arrive_as_they_are(cluster: Cluster) -> None:
    unknown = httpx.post(f"{cluster.url}/v1/embeddings", json={"input": "a", "model": "no"}, timeout=30)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    many = embed(cluster.url, ["a"] * 2049)
    assert many.status_code in (400, 422)
    assert "the limit is 2048" in many.text
    assert httpx.get(f"{cluster.url}/nowhere", timeout=30).status_code == 404


def test_admin_and_fairness_go_by_key(cluster: Cluster) -> None:
    url = f"{cluster.url}/keyed"
    assert embed(url, ["a"]).status_code == 401
    forged = {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1"}
    assert httpx.get(f"{url}/admin/models", headers=forged, timeout=30).status_code == 401
    user = {"authorization": f"Bearer {cluster.key}"}
    assert httpx.get(f"{url}/admin/models", headers=user, timeout=30).status_code == 403
    admin = {"authorization": f"Bearer {cluster.admin_key}"}
    assert httpx.get(f"{url}/admin/models", headers=admin, timeout=30).status_code == 200
    # The plain deployment has no keys, and its admin API is off: HAProxy's address does not open it.
    assert httpx.get(f"{cluster.url}/admin/models", timeout=30).status_code == 404


def read_stream(cluster: Cluster, texts: int, pause: float = 0.0) -> tuple[list[str], list[float]]:
    """Return the lines of a streamed answer and their times; the client pauses after every thousand lines."""
    body = {"input": [f"text {row}" for row in range(texts)], "model": "tiny"}
    headers = {"accept": "application/x-ndjson"}
    lines, times = [], []
    with httpx.stream("POST", f"{cluster.url}/v1/embeddings", json=body, headers=headers, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            lines.append(line)
            times.append(time.monotonic())
            if len(lines) % 1000 == 0:
                time.sleep(pause)
    return lines, times


def test_a_stream_arrives_part_by_part(cluster: Cluster) -> None:
    lines, times = read_stream(cluster, 19_000)
    assert len(lines) == 19_001  # the last one has the usage
    assert [json.loads(line)["index"] for line in lines[:-1]] == list(range(19_000))
    assert times[0] < times[-1] - 0.05  # the first line came before the last was computed


def test_a_body_of_many_megabytes_passes(cluster: Cluster) -> None:
    answer = embed(cluster.url, ["word " * 4000] * 900)  # 18 MB
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.json()["data"]) == 900


def test_flight_servers_name_each_other(cluster: Cluster) -> None:
    assert len(cluster.flight) == 2
    for url in cluster.flight:
        with fl.FlightClient(url) as client:
            (info,) = client.list_flights()
            places = [place.uri.decode() for place in info.endpoints[0].locations]
            assert sorted(places) == sorted(cluster.flight)
            assert places[0] == url
            table = client.do_get(fl.Ticket(json.dumps({"texts": TEXTS}).encode())).read_all()
            np.testing.assert_allclose(np.array(table["vector"].to_pylist()), cluster.vectors, atol=1e-5)


def listening(processes: list[psutil.Process]) -> dict[int, str]:
    """Return the addresses of the listening sockets of processes, by port."""
    found = {}
    for process in processes:
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                found[one.laddr.port] = one.laddr.ip
    return found


def test_open_ports_are_those_that_the_documents_name(cluster: Cluster) -> None:
    every = psutil.Process(cluster.command.process.pid).children(recursive=True)
    haproxy = listening([one for one in every if one.name() == "haproxy"])
    assert haproxy[cluster.ports[0]] == "127.0.0.1"
    # HAProxy's template of Ray Serve 2.60 has no address for these two (docs/howto/ray.md).
    assert {haproxy[port] for port in cluster.ports[1:3]} <= {"0.0.0.0", "::", "*"}
    assert set(haproxy) == set(cluster.ports[:3])
    replicas = listening(every)
    inside = {port: ip for port, ip in replicas.items() if cluster.ports[3] <= port <= cluster.ports[3] + 40}
    assert len(inside) >= 2
    assert set(inside.values()) == {"127.0.0.1"}


STATUS = """
[balancer]
http = "127.0.0.1:{port}"

[[pools]]
name = "replicas"
models = ["tiny"]
"""

INSTANCE = """
[[pools.instances]]
name = "r{number}"
http = "{address}"
"""


def test_the_state_of_replicas_is_that_of_instances(cluster: Cluster, tmp_path: Path) -> None:
    printed = json.JSONDecoder().raw_decode(cluster.command.out.read_text())[0]
    (plain,) = [one for one in printed if one["name"] == "plain"]
    assert len(plain["instances"]) == 2
    instances = [
        INSTANCE.format(number=number, address=url.removeprefix("http://"))
        for number, url in enumerate(plain["instances"])
    ]
    (tmp_path / "status.toml").write_text(STATUS.format(port=cluster.ports[48]) + "".join(instances))
    done = run_command("cluster", "status", "status.toml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(2):
        row = rf"^replicas/r{number} .* ready +tiny +1 +fs1-\w+ +self-made +MLAS "
        assert re.search(row, done.stdout, re.MULTILINE), done.stdout


def test_options_reach_ray_serve(cluster: Cluster) -> None:
    """Ray Serve ignores unknown options in a file, so that what it says it runs with is compared."""
    program = (
        "import json, ray, logging; ray.init(address='auto', log_to_driver=False, logging_level='error')\n"
        "from ray.serve._private.api import _get_global_client\n"
        "details = _get_global_client().get_serve_details()\n"
        "print(json.dumps({name: next(iter(app['deployments'].values()))['deployment_config']"
        " for name, app in details['applications'].items()}, default=str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=token_mode()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    plain, keyed = found["plain"], found["keyed"]
    assert plain["num_replicas"] == 2
    assert plain["max_ongoing_requests"] == 100_000
    assert (plain["health_check_period_s"], plain["health_check_timeout_s"]) == (5.0, 30.0)
    assert plain["graceful_shutdown_timeout_s"] == 16.0
    assert plain["ray_actor_options"]["num_cpus"] == 0.5
    scaling = keyed["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (0, 2)
    assert (scaling["upscale_delay_s"], scaling["downscale_delay_s"], scaling["downscale_to_zero_delay_s"]) == (1, 5, 5)
    assert scaling["policy"]["policy_function"] == "fletcher.serve.cluster_ray.scaling:QueueSeconds"
    assert scaling["policy"]["policy_kwargs"] == {"target": 0.02}


def token_mode() -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


def test_models_are_exchanged_without_a_failed_request(cluster: Cluster) -> None:
    with Load(cluster.url) as load:
        time.sleep(1)
        cluster.write("2")
        cluster.command.process.send_signal(signal.SIGHUP)
        cluster.command.wait_for('"name": "plain"', count=2)
        deadline = time.monotonic() + 60
        while not all(embed(cluster.url, ["a"], model="tiny@2").status_code == 200 for _ in range(8)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1)
    assert set(load.counts) == {200}, load.counts
    assert embed(cluster.url, ["a"], model="tiny@1").status_code == 404


def test_a_file_that_cannot_be_used_changes_nothing(cluster: Cluster) -> None:
    before = (cluster.folder / "cluster.toml").read_text()
    (cluster.folder / "cluster.toml").write_text(before.replace("min_replicas = 2", "min_replica = 2", 1))
    cluster.command.process.send_signal(signal.SIGHUP)
    cluster.command.wait_for("did you mean 'min_replicas'?")
    (cluster.folder / "cluster.toml").write_text(before)
    assert embed(cluster.url, ["a"]).status_code == 200


def test_a_killed_replica_comes_back(cluster: Cluster) -> None:
    victims = replica_processes(cluster)
    assert len(victims) >= 2
    with Load(cluster.url) as load:
        time.sleep(2)
        victims[0].kill()
        time.sleep(10)
    failed = sum(count for status, count in load.counts.items() if status != 200)
    assert failed <= max(0.005 * len(load.statuses), 1), load.counts
    assert set(load.counts) <= {200, 0, 500, 502, 503}


def replica_processes(cluster: Cluster, status: int = 200) -> list[psutil.Process]:
    """Return the processes of replicas that answer a request without a key with a status."""
    every = psutil.Process(cluster.command.process.pid).children(recursive=True)
    found = []
    for one in every:
        try:
            sockets = one.net_connections("tcp")
        except (psutil.NoSuchProcess, OSError):  # it has ended meanwhile
            continue
        for one_socket in sockets:
            port = one_socket.laddr.port
            inside = cluster.ports[3] <= port <= cluster.ports[3] + 40
            if one_socket.status == psutil.CONN_LISTEN and inside and asked(f"http://127.0.0.1:{port}") == status:
                found.append(one)
    return found


def asked(url: str) -> int:
    """Return the status of the list of models; those below a prefix answer there alone."""
    status = httpx.get(f"{url}/v1/models", timeout=30).status_code
    return httpx.get(f"{url}/keyed/v1/models", timeout=30).status_code if status == 404 else status


def test_a_stream_outlives_a_change_of_the_replicas(cluster: Cluster) -> None:
    """HAProxy reloads when replicas change, and its old process keeps its streams for stream_seconds."""
    keyed = f"{cluster.url}/keyed"
    assert embed(keyed, ["a"], {"authorization": f"Bearer {cluster.key}"}).status_code == 200  # it has a replica now
    before = haproxy_processes(cluster)
    results: list[tuple[list[str], list[float]]] = []
    reader = threading.Thread(target=lambda: results.append(read_stream(cluster, 19_000, pause=0.7)))
    reader.start()
    time.sleep(1)
    for victim in replica_processes(cluster, status=401):  # those of the deployment with keys
        victim.kill()
    reader.join()
    ((lines, times),) = results
    assert len(lines) == 19_001
    assert times[-1] - times[0] > 10
    assert haproxy_processes(cluster) != before


def haproxy_processes(cluster: Cluster) -> set[int]:
    """Return the processes of HAProxy."""
    inside = {one.pid for one in psutil.Process(cluster.command.process.pid).children(recursive=True)}
    every = psutil.process_iter(["name"])  # leaves out those that end meanwhile
    return {one.pid for one in every if one.info["name"] == "haproxy" and one.pid in inside}


def test_replicas_follow_the_queue_to_zero_and_back(cluster: Cluster) -> None:
    url, headers = f"{cluster.url}/keyed", {"authorization": f"Bearer {cluster.key}"}

    def keyed() -> int:
        return len(serve_replicas(cluster, "keyed"))

    with Load(url, threads=12, texts=400, headers=headers) as load:
        deadline = time.monotonic() + 90
        while keyed() < 2:
            assert time.monotonic() < deadline, load.counts
            time.sleep(1)
    assert set(load.counts) <= {200, 429}, load.counts
    deadline = time.monotonic() + 120
    while keyed() > 0:
        assert time.monotonic() < deadline
        time.sleep(1)
    answer = embed(url, TEXTS, headers)  # waits for the first replica
    assert answer.status_code == 200
    np.testing.assert_allclose(
        np.array([row["embedding"] for row in answer.json()["data"]]), cluster.vectors, atol=1e-5
    )


def serve_replicas(cluster: Cluster, name: str) -> list[str]:
    """Return the replicas of a deployment that run, as Ray Serve says."""
    program = (
        "import json, sys, ray; ray.init(address='auto', log_to_driver=False, logging_level='error')\n"
        "from ray import serve\n"
        "states = serve.status().applications[sys.argv[1]].deployments[sys.argv[1]].replica_states\n"
        "print(json.dumps({str(key): value for key, value in states.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        capture_output=True,
        text=True,
        timeout=120,
        env=token_mode(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    states = json.loads(done.stdout.strip().splitlines()[-1])
    return ["running"] * sum(count for state, count in states.items() if "RUNNING" in state)


def test_a_port_that_is_taken_is_named(cluster: Cluster, tmp_path: Path) -> None:
    text = (cluster.folder / "cluster.toml").read_text().replace('path = "tiny"', f'path = "{cluster.folder}/tiny"')
    text = text.replace("keys.json", f"{cluster.folder}/keys.json")
    (tmp_path / "cluster.toml").write_text(text)
    done = run_command("cluster", "serve", "cluster.toml", folder=tmp_path)
    assert done.returncode == 1
    assert f"port {cluster.ports[0]}" in done.stderr
    assert "in use" in done.stderr
