"""Versions under one name give vectors of one kind, and a request gets the vectors of the spaces that it accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime.inputs import Texts
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.terms import Terms
from fletcher.serve.errors import ConflictError, SpaceError
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import CARD, SPACE, FakeEncoder, expected, info

SECONDS = 20.0


def load(spec: ModelSpec) -> Backend:
    """Return an encoder; the folder's name says in what it differs from the usual one."""
    folder = Path(spec.path).name
    encoder = FakeEncoder(workers=1, delay=0.02 if folder == "slow" else 0.0)
    changes: dict[str, Any] = {"digest": folder}
    card: dict[str, Any] = {}
    if folder == "short":
        changes["dimension"] = card["dimension"] = 4
    elif folder == "scores":
        card["output"] = "scores"
    elif folder == "dot":
        card["similarity"] = "dot"
    elif folder == "cosine":
        card["similarity"] = "cosine"
    elif folder == "retrained":
        changes["space"] = msgspec.structs.replace(SPACE, weights="other")
    encoder.info = info(card=msgspec.structs.replace(CARD, name=spec.name, aliases=(), **card), **changes)
    return encoder


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server([spec("usual", "1")], options(), load=load) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as client:
        yield client


def options() -> ServerOptions:
    return ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10, admin="on", models_root="/")


def spec(path: str, version: str, **fields: Any) -> ModelSpec:
    return ModelSpec(path=path, name="m", version=version, **fields)


@pytest.mark.parametrize(
    ("path", "reason"), [("short", "dimension 4, and m@1 has 8"), ("scores", "output scores, and m@1 has vectors")]
)
def test_a_version_of_another_kind_is_refused_and_nothing_changes(
    http: httpx.Client, server: Server, path: str, reason: str
) -> None:
    body = {"path": path, "name": "m", "version": "2"}
    refused = http.post("/admin/models", json=body)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "conflict" and reason in refused.json()["error"]["message"]
    assert [state["version"] for state in http.get("/admin/models").json()["models"]] == ["1"]
    with fl.connect(str(server.addresses.flight)) as flight, pytest.raises(pa.ArrowInvalid, match=reason):
        list(flight.do_action(fl.Action("load", msgspec.json.encode(body))))


@pytest.mark.parametrize("fields", [{"weight": 0.0}, {"shadow": True}])
def test_a_version_of_another_kind_may_be_a_shadow_or_have_no_weight(
    http: httpx.Client, fields: dict[str, Any]
) -> None:
    assert http.post("/admin/models", json={"path": "short", "name": "m", "version": "2"} | fields).status_code == 200
    for _ in range(20):
        assert len(http.post("/embed", json={"model": "m", "inputs": "ab"}).json()[0]) == 8
    share = {"version": "2", "weight": 1.0, "shadow": False}
    refused = http.patch("/admin/models/m", json={"versions": [share]})
    assert refused.status_code == 409
    states = {state["version"]: state for state in http.get("/admin/models").json()["models"]}
    assert {name: states["2"][name] for name in fields} == fields


def test_functions_that_compare_vectors_must_agree_where_both_name_one(http: httpx.Client) -> None:
    assert http.post("/admin/models", json={"path": "dot", "name": "m", "version": "2"}).status_code == 200
    with (
        Server([spec("dot", "1")], options(), load=load) as server,
        pytest.raises(ConflictError, match="similarity cosine, and m@1 has dot"),
    ):
        server.models.edit(lambda specs: [*specs, spec("cosine", "2")])


def test_a_file_with_versions_of_different_kinds_does_not_start() -> None:
    with pytest.raises(ConflictError, match="m@2 has the dimension 4"):
        Server([spec("usual", "1"), spec("short", "2")], options(), load=load)


def test_the_only_version_may_be_replaced_by_one_of_another_kind(http: httpx.Client) -> None:
    assert http.post("/admin/models", json={"path": "short", "name": "m", "version": "1"}).status_code == 200


def test_a_request_gets_the_version_of_its_space(http: httpx.Client, server: Server) -> None:
    """Two versions of different trainings have equal shares; each request that names a space gets only that one's vectors."""
    assert http.post("/admin/models", json={"path": "retrained", "name": "m", "version": "2"}).status_code == 200
    spaces = {state["version"]: state["space"] for state in http.get("/admin/models").json()["models"]}
    assert spaces == {"1": SPACE.id, "2": msgspec.structs.replace(SPACE, weights="other").id}
    for version, space in spaces.items():
        for _ in range(20):
            request = EmbedRequest(Texts(("ab",)), terms=Terms(spaces=(space,)))
            picked, future = server.models.submit_blocking("m", request)
            assert picked.description.version == version
            np.testing.assert_array_equal(future.result(SECONDS).vectors[0], expected("ab"))
            answer = http.post("/v1/embeddings", json={"model": "m", "input": "ab"}, headers={"If-Space": space})
            assert (answer.status_code, answer.headers["x-space"]) == (200, space)
    named = EmbedRequest(Texts(("ab",)), terms=Terms(spaces=(spaces["2"],)))
    with pytest.raises(SpaceError, match="m@1 answers this request in the space"):
        server.models.submit_blocking("m@1", named)


def test_flight_names_the_space_and_refuses_another_one(server: Server) -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["ab", "cd"]})
    with fl.connect(str(server.addresses.flight)) as client:

        def exchange(space: str | None) -> Any:
            headers = [] if space is None else [(b"if-space", space.encode())]
            writer, reader = client.do_exchange(
                fl.FlightDescriptor.for_path("embed"), fl.FlightCallOptions(headers=headers, timeout=SECONDS)
            )
            with writer:
                writer.begin(batch.schema)
                writer.write_batch(batch)
                writer.done_writing()
                return reader.read_all()

        for accepted in (None, SPACE.id, f"fs1-x,{SPACE.id}"):
            assert exchange(accepted).schema.metadata[b"fletcher.space"] == SPACE.id.encode()
        with pytest.raises(pa.ArrowInvalid, match="accepts only fs1-x"):
            exchange("fs1-x")
        ticket = fl.Ticket(b'{"texts": ["ab"], "dimensions": 4}')
        table = client.do_get(ticket).read_all()
        assert table.schema.metadata[b"fletcher.space"] == f"{SPACE.id}.4".encode()
        call = fl.FlightCallOptions(headers=[(b"if-space", SPACE.id.encode())])
        with pytest.raises(pa.ArrowInvalid, match=rf"in the space {SPACE.id}\.4"):
            client.do_get(ticket, call)


def test_a_stream_ends_instead_of_mixing_two_spaces(http: httpx.Client, server: Server) -> None:
    """The version that answers a stream is replaced by one of another training."""
    batch = pa.RecordBatch.from_pydict({"text": ["ab"]})
    with fl.connect(str(server.addresses.flight)) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        with pytest.raises(pa.ArrowInvalid, match="vectors of two spaces cannot be compared"), writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            assert reader.read_chunk().data.num_rows == 1
            loaded = http.post("/admin/models", json={"path": "retrained", "name": "m", "version": "1"})
            assert loaded.status_code == 200
            writer.write_batch(batch)
            writer.done_writing()
            reader.read_all()


@pytest.mark.parametrize(("successor", "ends_well"), [("retrained", False), ("usual", True)])
def test_the_lines_of_a_stream_are_of_one_space(successor: str, ends_well: bool) -> None:
    """The version that answers an NDJSON stream is replaced after the first lines."""
    texts = [f"t{number}" for number in range(1500)]
    with (
        Server([spec("slow", "1")], options(), load=load) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=60) as http,
        httpx.Client(base_url=str(server.addresses.http), timeout=60) as admin,
        http.stream(
            "POST",
            "/v1/embeddings",
            json={"model": "m", "input": texts},
            headers={"accept": "application/x-ndjson"},
        ) as answer,
    ):
        assert (answer.status_code, answer.headers["x-space"]) == (200, SPACE.id)
        lines = answer.iter_lines()
        first = json.loads(next(lines))
        assert first["embedding"] == expected(texts[0]).tolist()
        assert admin.post("/admin/models", json={"path": successor, "name": "m", "version": "1"}).status_code == 200
        *middle, last = [json.loads(line) for line in lines]
    assert all(line["embedding"] == expected(texts[line["index"]]).tolist() for line in middle)
    if ends_well:
        assert last["space"] == SPACE.id and len(middle) == len(texts) - 1
    else:
        assert last["error"]["code"] == "other_space" and len(middle) < len(texts) - 1
