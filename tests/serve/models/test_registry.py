"""Several models in one server: names, versions, weights, shadows, replacement under load, sleep and memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import CanaryError, InputError, StoppingError
from fletcher.serve.engine.admission import MAX_MEMORY
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.engine import Engine
from fletcher.serve.models.shadows import drift
from fletcher.serve.models.spec import ModelSpec, read_specs
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import CARD, FakeEncoder, expected, info, request_for

SECONDS = 20.0

OPTIONS = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10, admin="on", models_root="/")


class Scaled(FakeEncoder):
    """Encoder whose vectors identify it: those of `FakeEncoder`, multiplied by a number. `turned` reverses the elements."""

    def __init__(self, scale: float, *, turned: bool = False, name: str = "fake-model") -> None:
        super().__init__(workers=1)
        self.scale = scale
        self.turned = turned
        self.closed = False
        card = msgspec.structs.replace(CARD, name=name, aliases=())
        self.info = info(card=card, digest=f"digest-{scale}", workers=1)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        assert not self.closed, "a batch ran on a closed encoder"
        values = super().run(batch, output) * np.float32(self.scale)
        return values[:, ::-1] if self.turned else values

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Loader of `Scaled` encoders. `path` is a scale, a scale with `turned`, or `broken`."""

    def __init__(self) -> None:
        self.loaded: list[Scaled] = []

    def __call__(self, spec: ModelSpec) -> Backend:
        if Path(spec.path).name == "broken":
            raise CanaryError("broken does not reproduce its canary")
        scale, _, turned = Path(spec.path).name.partition(" ")
        self.loaded.append(Scaled(float(scale), turned=turned == "turned", name=spec.name))
        return self.loaded[-1]


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def serve(shelf: Shelf, *specs: ModelSpec) -> Server:
    return Server(list(specs), OPTIONS, load=shelf)


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS)


def scale_of(http: httpx.Client, model: str, text: str = "ab") -> float:
    response = http.post("/v1/embeddings", json={"model": model, "input": text})
    assert response.status_code == 200, response.text
    return float(response.json()["data"][0]["embedding"][0] / expected(text)[0])


def metric(http: httpx.Client, pattern: str) -> float:
    match = re.search(rf"^{pattern} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_models_by_name_alias_and_version(shelf: Shelf) -> None:
    one = ModelSpec(path="1", name="one", aliases=("first",))
    two = ModelSpec(path="2", name="two", version="b")
    with serve(shelf, one, two) as server, client(server) as http:
        assert [scale_of(http, name) for name in ("one", "first", "one@1", "two", "two@b")] == [1, 1, 1, 2, 2]
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["one", "two"]
        assert http.get("/v1/models/two@b").json()["digest"] == "digest-2.0"
        assert http.post("/v1/embeddings", json={"model": "two@1", "input": "a"}).status_code == 404
        bare = http.post("/embed", json={"inputs": "ab", "normalize": False, "model": "two"}).json()
        assert bare == [(2 * expected("ab")).tolist()]
        assert metric(http, r'fletcher_model_requests_total\{model="two",version="b"\}') == 3
        assert metric(http, r"fletcher_queue_tokens") == 0


@pytest.mark.parametrize(
    "specs",
    [
        [],
        [ModelSpec(path="1", name="a"), ModelSpec(path="2", name="a")],
        [ModelSpec(path="1", name="a", weight=0.0)],
        [ModelSpec(path="1", name="a", shadow=True)],
        [ModelSpec(path="1", name="a", aliases=("x",)), ModelSpec(path="2", name="b", aliases=("x",))],
    ],
)
def test_contradictory_lists_of_models(shelf: Shelf, specs: list[ModelSpec]) -> None:
    with pytest.raises(InputError):
        serve(shelf, *specs)


def test_open_requests_get_a_share_of_the_memory_limit(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="1", name="one", memory_limit="1GiB"), ModelSpec(path="2", name="two")) as server:
        limited, free = (serving.versions[0].wake() for serving in server.models.named)
        assert isinstance(limited, Engine) and isinstance(free, Engine)
        assert limited.admission.max_memory == (1 << 30) // 16 * 2 // 3
        assert free.admission.max_memory == MAX_MEMORY


def test_ready_names_the_model_that_runs_on_another_provider(shelf: Shelf) -> None:
    with (
        serve(shelf, ModelSpec(path="1", name="one"), ModelSpec(path="2", name="two")) as server,
        client(server) as http,
    ):
        assert "fallback" not in http.get("/ready").json()
        reason = "openvino was requested, mlas runs: no such library"
        shelf.loaded[1].info = msgspec.structs.replace(shelf.loaded[1].info, fallback=reason)
        ready = http.get("/ready")
        assert (ready.status_code, ready.json()["fallback"]) == (200, f"two: {reason}")
        assert metric(http, "fletcher_provider_fallback") == 1


def test_weights_share_requests(shelf: Shelf) -> None:
    light = ModelSpec(path="1", name="m", version="1", weight=1)
    heavy = ModelSpec(path="2", name="m", version="2", weight=3)
    with serve(shelf, light, heavy) as server, client(server) as http:
        counts = Counter(scale_of(http, "m") for _ in range(400))
        assert counts[1] + counts[2] == 400
        assert 240 < counts[2] < 360  # 300 expected, 8.7 the standard deviation
        answer = http.patch("/admin/models/m", json={"versions": [{"version": "2", "weight": 0}]})
        assert answer.status_code == 200
        assert {scale_of(http, "m") for _ in range(20)} == {1}
        assert len(shelf.loaded) == 2  # nothing was loaded again


def test_a_shadow_does_not_answer_clients_and_its_drift_is_counted(shelf: Shelf) -> None:
    main = ModelSpec(path="1", name="m")
    shadow = ModelSpec(path="1 turned", name="m", version="next", shadow=True)
    with serve(shelf, main, shadow) as server, client(server) as http:
        assert {scale_of(http, "m") for _ in range(10)} == {1}
        labels = r'\{model="m",version="next"\}'
        deadline = time.monotonic() + SECONDS
        while metric(http, f"fletcher_shadow_drift_count{labels}") < 10:
            assert time.monotonic() < deadline
        vector = expected("ab").astype(np.float64)
        cosine = vector @ vector[::-1] / (vector @ vector)
        assert metric(http, f"fletcher_shadow_drift_sum{labels}") == pytest.approx(10 * (1 - cosine))


def test_drift_of_equal_and_of_incomparable_answers() -> None:
    from fletcher.runtime import Embeddings

    def embeddings(vectors: Sequence[Sequence[float]]) -> Embeddings:
        return Embeddings(np.array(vectors, np.float32), np.ones(1, np.int64), np.zeros(1, np.int32))

    drifts = drift(embeddings([[1, 0], [1, 1], [0, 0]]), embeddings([[2, 0], [1, -1], [0, 0]]))
    assert drifts is not None
    np.testing.assert_allclose(drifts, [0, 1, 1], atol=1e-12)
    assert drift(embeddings([[1, 0]]), embeddings([[1, 0, 0]])) is None


def test_no_request_fails_while_models_are_replaced_under_load(shelf: Shelf) -> None:
    """Eight clients send requests all the time while the model is replaced ten times."""
    stop = threading.Event()
    statuses: Counter[int] = Counter()
    scales: set[float] = set()
    lock = threading.Lock()

    def ask(server: Server) -> None:
        with client(server) as http:
            while not stop.is_set():
                response = http.post("/v1/embeddings", json={"model": "m", "input": ["ab"] * 5})
                with lock:
                    statuses[response.status_code] += 1
                    if response.status_code == 200:
                        value = response.json()["data"][4]["embedding"]
                        scale = value[0] / expected("ab")[0]
                        assert value == (np.float32(scale) * expected("ab")).tolist()
                        scales.add(scale)

    with serve(shelf, ModelSpec(path="1", name="m")) as server, client(server) as http:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(2, 12):
            answer = http.post("/admin/models", json={"path": str(turn), "name": "m"})
            assert answer.status_code == 200, answer.text
            assert scale_of(http, "m") == turn  # requests after the answer use the new model
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
        assert metric(http, "fletcher_admission_admitted_total") >= statuses[200]
    assert set(statuses) == {200}
    assert statuses[200] > 50
    assert len(scales) > 3
    assert [encoder.closed for encoder in shelf.loaded] == [True] * 11


def test_a_model_that_fails_to_load_changes_nothing(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="1", name="m")) as server, client(server) as http:
        refused = http.post("/admin/models", json={"path": "broken", "name": "m"})
        assert refused.status_code == 400
        assert "canary" in refused.json()["error"]["message"]
        assert scale_of(http, "m") == 1
        assert http.delete("/admin/models/m").status_code == 400  # the last model
        assert http.delete("/admin/models/other").status_code == 404


def test_load_and_unload(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="1", name="m")) as server, client(server) as http:
        states = http.post("/admin/models", json={"path": "2", "name": "n"}).json()["models"]
        assert [(state["name"], state["version"], state["awake"]) for state in states] == [
            ("m", "1", True),
            ("n", "1", True),
        ]
        assert scale_of(http, "n") == 2
        assert len(http.delete("/admin/models/n").json()["models"]) == 1
        assert http.post("/v1/embeddings", json={"model": "n", "input": "a"}).status_code == 404
        assert shelf.loaded[1].closed


def test_a_replacement_keeps_the_settings_that_it_does_not_name(shelf: Shelf) -> None:
    spec = ModelSpec(path="1", name="m", aliases=("alias",), idle_seconds=60)
    with serve(shelf, spec) as server, client(server) as http:
        (state,) = http.post("/admin/models", json={"path": "2", "name": "m"}).json()["models"]
        assert (state["aliases"], state["idle_seconds"], state["path"]) == (["alias"], 60, "/2")
        assert scale_of(http, "alias") == 2
        # Null is the default value; in an unknown field it is left out.
        body = {"path": "2", "name": "m", "idle_seconds": None, "weight": None, "color": None}
        (state,) = http.post("/admin/models", json=body).json()["models"]
        assert (state["aliases"], state["idle_seconds"], state["weight"]) == (["alias"], None, 1.0)


def test_the_admin_api_needs_json_and_rejects_browsers(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="1", name="m")) as server, client(server) as http:
        body = b'{"path": "2", "name": "m"}'
        form = http.post("/admin/models", content=body, headers={"content-type": "text/plain"})
        assert form.status_code == 415
        website = {"origin": "https://example.org", "content-type": "application/json"}
        assert http.post("/admin/models", content=body, headers=website).status_code == 403
        assert len(shelf.loaded) == 1


def test_an_idle_model_sleeps_and_the_next_request_wakes_it(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="1", name="m", idle_seconds=0.2)) as server, client(server) as http:
        assert scale_of(http, "m") == 1
        deadline = time.monotonic() + SECONDS
        while not shelf.loaded[0].closed or metric(http, "fletcher_models_awake"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert http.get("/ready").status_code == 200
        assert scale_of(http, "m") == 1
        assert len(shelf.loaded) == 2
        assert metric(http, "fletcher_vectors_processed_total") == 2


def test_toml_names_models_and_rejects_unknown_keys(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        '[[models]]\npath = "a"\nname = "m"\nweight = 0.5\n[[models]]\npath = "/b"\nname = "n"\nidle_seconds = 60\n'
    )
    first, second = read_specs(file)
    assert (first.path, first.weight) == (str(tmp_path / "a"), 0.5)
    assert (second.path, second.idle_seconds) == ("/b", 60)
    for text in (
        "[[models]]\npath = 3",
        '[[models]]\npath = "a"\nfrobnicate = 1',
        "[[models",
        '[[models]]\nname = "a"',
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=r"server\.toml"):
            read_specs(file)


MEMORY_SCRIPT = """
import json, sys, time
import httpx, psutil
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

spec = ModelSpec(path=sys.argv[1], name="m", idle_seconds=0.5, provider="mlas", workers=1, cache="0")
body = {"model": "m", "input": ["a text"] * 8}
with Server([spec], ServerOptions(http="127.0.0.1:0", flight="off")) as server:
    version = server.models.named[0].versions[0]
    ask = lambda: httpx.post(f"{server.addresses.http}/v1/embeddings", json=body, timeout=60).json()["data"][0]["embedding"]
    first, awake = ask(), psutil.Process().memory_info().rss
    while version.engine is not None:
        time.sleep(0.02)
    time.sleep(0.5)  # the engine is gone first, its memory follows
    asleep = psutil.Process().memory_info().rss
    print(json.dumps({"awake": awake, "asleep": asleep, "same": ask() == first}))
"""


def test_memory_of_an_idle_model_is_released(minilm_artifact: Path) -> None:
    """The weights of MiniLM are 87 MiB. They are resident while it answers, and released while it sleeps."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(minilm_artifact)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["awake"] - result["asleep"] > 60 << 20
    assert result["same"]


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fletcher-worker")]


def test_flight_names_models_and_continues_after_a_replacement(shelf: Shelf) -> None:
    specs = [ModelSpec(path="1", name="one"), ModelSpec(path="2", name="two")]
    with (
        Server(specs, OPTIONS.replace(flight="127.0.0.1:0"), load=shelf) as server,
        fl.connect(str(server.addresses.flight)) as flight,
        client(server) as http,
    ):
        batch = pa.RecordBatch.from_pydict({"text": ["ab"]})

        metadata: list[Any] = []

        def ask(writer: Any, reader: Any) -> float:
            writer.write_batch(batch)
            chunk = reader.read_chunk()
            metadata.append(
                None if chunk.app_metadata is None else msgspec.json.decode(chunk.app_metadata.to_pybytes())
            )
            return float(chunk.data["vector"][0].as_py()[0] / expected("ab")[0])

        for name, scale in (("one", 1), ("two", 2)):
            descriptor = fl.FlightDescriptor.for_command(msgspec.json.encode({"model": name}))
            writer, reader = flight.do_exchange(descriptor)
            with writer:
                writer.begin(batch.schema)
                assert ask(writer, reader) == scale
                if name == "two":
                    assert http.post("/admin/models", json={"path": "3", "name": "two"}).status_code == 200
                    assert ask(writer, reader) == 3  # the same stream continues with the new model
                writer.done_writing()
        # The schema was sent before and names the old version, so the batch says that it has another version.
        assert metadata == [None, None, {"model": {"version": "1", "digest": "digest-3.0", "variant": "cpu-fp32"}}]
        with pytest.raises(pa.ArrowKeyError, match="three"):
            flight.get_flight_info(fl.FlightDescriptor.for_command(b'{"model": "three"}'))


def test_one_version_answers_a_stream_and_the_schema_names_it(shelf: Shelf) -> None:
    specs = [ModelSpec(path=str(scale), name="m", version=str(scale)) for scale in (1, 2)]
    batch = pa.RecordBatch.from_pydict({"text": ["ab"]})
    with (
        Server(specs, OPTIONS.replace(flight="127.0.0.1:0"), load=shelf) as server,
        fl.connect(str(server.addresses.flight)) as flight,
        client(server) as http,
    ):
        seen = set()
        for _ in range(20):
            writer, reader = flight.do_exchange(fl.FlightDescriptor.for_path("embed"))
            with writer:
                writer.begin(batch.schema)
                for _ in range(4):
                    writer.write_batch(batch)
                writer.done_writing()
                table = reader.read_all()
            scales = {vector[0] / expected("ab")[0] for vector in table["vector"].to_pylist()}
            metadata = table.schema.metadata
            assert [metadata[b"fletcher.digest"].decode()] == [f"digest-{scale}" for scale in scales]
            assert [float(metadata[b"fletcher.model_version"])] == [*scales]
            seen |= scales
        assert seen == {1.0, 2.0}

        # If a version is removed during a stream, a client that asked for it gets an error. A client that asked for the model
        # continues with another version.
        by_name, by_model = fl.FlightDescriptor.for_command(b'{"model": "m@1"}'), fl.FlightDescriptor.for_path("embed")
        assert http.patch("/admin/models/m", json={"versions": [{"version": "2", "weight": 0}]}).status_code == 200
        writer, reader = flight.do_exchange(by_model)
        with pytest.raises(pa.ArrowKeyError, match="m@1"), flight.do_exchange(by_name)[0] as named, writer:
            for each in (named, writer):
                each.begin(batch.schema)
                each.write_batch(batch)
            assert reader.read_chunk().app_metadata is None
            assert http.patch("/admin/models/m", json={"versions": [{"version": "2", "weight": 1}]}).status_code == 200
            assert http.delete("/admin/models/m@1").status_code == 200
            writer.write_batch(batch)
            notice = msgspec.json.decode(reader.read_chunk().app_metadata.to_pybytes())
            assert notice == {"model": {"version": "2", "digest": "digest-2.0", "variant": "cpu-fp32"}}
            writer.done_writing()
            named.write_batch(batch)
            named.done_writing()


def test_sighup_reads_the_file_again_and_an_invalid_file_changes_nothing(minilm_artifact: Path, tmp_path: Path) -> None:
    """The real command runs with two models in a file. Then the file has one model less and another alias."""
    entry = f'[[models]]\npath = "{minilm_artifact}"\nprovider = "mlas"\nworkers = 1\n'
    file = tmp_path / "server.toml"
    file.write_text(entry + 'name = "a"\n' + entry + 'name = "b"\naliases = ["text-embedding-3-small"]\n')
    running = subprocess.Popen(
        [
            *(sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "run"),
            *("--config", str(file), "--json", "--http", "127.0.0.1:0", "--flight", "off"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        with httpx.Client(base_url=json.loads(running.stdout.readline())["http"], timeout=SECONDS) as http:

            def names() -> list[str]:
                return [model["id"] for model in http.get("/v1/models").json()["data"]]

            assert names() == ["a", "b"]
            assert (
                http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "a"}).status_code == 200
            )
            file.write_text(entry + "frobnicate = 1\n")
            running.send_signal(signal.SIGHUP)
            time.sleep(1.0)
            assert names() == ["a", "b"]
            file.write_text(entry + 'name = "b"\naliases = ["other"]\n')
            running.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + SECONDS
            while names() != ["b"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert http.post("/v1/embeddings", json={"model": "other", "input": "a"}).status_code == 200
        running.send_signal(signal.SIGTERM)
        _, logged = running.communicate(timeout=SECONDS)
        assert running.returncode == 0
        assert "frobnicate" in logged
    finally:
        running.kill()
        running.communicate()


@pytest.mark.slow
def test_no_request_fails_while_real_models_are_replaced_under_load(minilm_artifact: Path) -> None:
    """MiniLM is replaced five times while four clients send requests. At the end, memory is that of one model."""
    spec = ModelSpec(path=str(minilm_artifact), name="m", provider="mlas", workers=1, cache="0")
    stop = threading.Event()
    failed: list[str] = []
    answered: list[int] = []
    vectors: set[bytes] = set()

    def ask(server: Server) -> None:
        with client(server) as http:
            while not stop.is_set():
                response = http.post("/v1/embeddings", json={"model": "m", "input": "A man is eating food."})
                answered.append(response.status_code)
                if response.status_code == 200:
                    vectors.add(np.array(response.json()["data"][0]["embedding"], np.float32).tobytes())
                else:
                    failed.append(response.text)

    process = psutil.Process()
    with (
        Server([spec], OPTIONS) as server,
        client(server) as http,
    ):
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        sizes = []
        for _ in range(5):
            body = {"path": str(minilm_artifact), "name": "m", "provider": "mlas", "workers": 1, "cache": "0"}
            assert http.post("/admin/models", json=body).status_code == 200
            sizes.append(process.memory_info().rss)
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not failed
    assert len(answered) > 100
    assert len(vectors) == 1  # the models are the same
    assert max(sizes[1:]) - min(sizes[1:]) < 80 << 20  # less than one model's weights in four exchanges


def test_a_stopped_server_rejects_requests_at_once(shelf: Shelf) -> None:
    server = serve(shelf, ModelSpec(path="1", name="m"))
    server.stop()
    for _ in range(2):
        with pytest.raises(StoppingError):
            server.models.submit_blocking("m", request_for(["ab"]))
    with pytest.raises(StoppingError):
        server.models.submit(server.models.pick("m"), request_for(["ab"]))
