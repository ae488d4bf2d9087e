"""Models by URL in a server: start, aliases that change, SIGHUP, the admin API, and the hold on the cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.errors import InputError, SourceError
from fletcher.runtime.remote.transfer import push
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec, read_specs
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ....doubles.s3_server import environment
from ....doubles.tcp_proxy import TcpProxy

pytest.importorskip("obstore")

SECONDS = 60.0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


@pytest.fixture
def version(tmp_path: Path, tiny_artifact: Path) -> Callable[[str], Path]:
    """Return a function that makes an artifact with a file that gives it a digest of its own."""

    def make(name: str) -> Path:
        folder = tmp_path / "made" / name
        shutil.copytree(tiny_artifact, folder)
        (folder / "notes.txt").write_text(name)
        manifest = Artifact.open(folder).manifest
        write_manifest(folder, msgspec.structs.replace(manifest, files=describe_files(folder)))
        return folder

    return make


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return the URL of an empty store of files."""
    return f"file://{tmp_path}/store"


def options(follow_seconds: float = 0.1, fronts: int = 0, models_root: str | None = None) -> ServerOptions:
    fixed = ServerOptions(http="127.0.0.1:0", flight="off", admin="on")
    return fixed.replace(follow_seconds=follow_seconds, fronts=fronts, models_root=models_root)


def spec(url: str, **fields: Any) -> ModelSpec:
    return ModelSpec(path=url, name="tiny", provider="mlas", cache=0, **fields)


def models(server: Server | Supervisor) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.addresses.http}/admin/models")
    answer.raise_for_status()
    return list(answer.json()["models"])


def get(server: Server | Supervisor, path: str) -> int:
    try:
        return httpx.get(f"{server.addresses.http}{path}").status_code
    except httpx.HTTPError:
        return 0


def digest(server: Server | Supervisor) -> str:
    return str(models(server)[0]["digest"])


def serves(server: Server | Supervisor, expected: str) -> bool:
    return digest(server) == expected


def logged(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    """Return whether a line of the log or one of its fields has some words."""
    return any(words in str(vars(record)) for record in caplog.records)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_model_by_url_answers_and_shows_its_url(version: Callable[[str], Path], store: str, cache: Path) -> None:
    pushed = push(version("one"), f"{store}/one")
    with Server([spec(f"{store}/one")], options()) as server:
        answer = httpx.post(f"{server.addresses.http}/v1/embeddings", json={"input": "a", "model": "tiny"})
        assert answer.status_code == 200
        (model,) = models(server)
        assert (model["source"], model["digest"]) == (f"{store}/one", pushed.digest)
        assert Path(model["path"]).parent == cache


def test_a_server_follows_an_alias(version: Callable[[str], Path], store: str, cache: Path) -> None:
    one = push(version("one"), f"{store}/one", alias=f"{store}/prod.json")
    with Server([spec(f"{store}/prod.json")], options()) as server:
        assert digest(server) == one.digest
        two = push(version("two"), f"{store}/two", alias=f"{store}/prod.json")
        until(lambda: digest(server) == two.digest)
        assert models(server)[0]["source"] == f"{store}/prod.json"
        back = push(version("one-again"), f"{store}/three", alias=f"{store}/prod.json")
        until(lambda: digest(server) == back.digest)


def test_an_alias_that_names_nothing_usable_changes_nothing(
    version: Callable[[str], Path], store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = push(version("one"), f"{store}/one", alias=f"{store}/prod.json")
    wrong = version("wrong")
    with Server([spec(f"{store}/prod.json")], options()) as server, caplog.at_level(logging.ERROR):
        for name, words in (("none", "is not an artifact"), ("wrong", "notes.txt has sha256")):
            if name == "wrong":
                push(wrong, f"{store}/wrong")
                (tmp_path / "store" / "wrong" / "notes.txt").write_text("WRONG")
            caplog.clear()
            (tmp_path / "store" / "prod.json").write_text(json.dumps({"artifact": name}))
            until(partial(logged, caplog, words))
            assert digest(server) == one.digest
            answer = httpx.post(f"{server.addresses.http}/v1/embeddings", json={"input": "a", "model": "tiny"})
            assert answer.status_code == 200
        two = push(version("two"), f"{store}/two", alias=f"{store}/prod.json")
        until(lambda: digest(server) == two.digest)


def test_without_following_a_server_reads_aliases_again_when_its_files_are(
    version: Callable[[str], Path], store: str
) -> None:
    one = push(version("one"), f"{store}/one", alias=f"{store}/prod.json")
    with Server([spec(f"{store}/prod.json")], options(follow_seconds=0)) as server:
        two = push(version("two"), f"{store}/two", alias=f"{store}/prod.json")
        assert not any(thread.name == "fletcher-aliases" for thread in threading.enumerate())
        assert digest(server) == one.digest
        server.models.apply([spec(f"{store}/prod.json")])  # as SIGHUP does
        assert digest(server) == two.digest


def test_a_pinned_digest_is_not_left_for_a_new_version(
    version: Callable[[str], Path], store: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = push(version("one"), f"{store}/one", alias=f"{store}/prod.json")
    with Server([spec(f"{store}/prod.json", digest=one.digest)], options()) as server, caplog.at_level(logging.ERROR):
        push(version("two"), f"{store}/two", alias=f"{store}/prod.json")
        until(partial(logged, caplog, "is required"))
        assert digest(server) == one.digest


def test_the_admin_api_takes_urls_below_its_root(
    version: Callable[[str], Path], store: str, tiny_artifact: Path
) -> None:
    one, two = push(version("one"), f"{store}/here/one"), push(version("two"), f"{store}/here/two")
    push(version("three"), f"{store}/three")
    with Server([spec(str(tiny_artifact))], options(models_root=f"{store}/here")) as server:
        url = f"{server.addresses.http}/admin/models"

        def load(**body: Any) -> httpx.Response:
            return httpx.post(url, json={"name": "tiny", **body})

        assert load(path=f"{store}/here/one").json()["models"][0]["digest"] == one.digest
        assert load(path="two").json()["models"][0]["source"] == f"{store}/here/two"
        assert digest(server) == two.digest
        for path, status, words in (
            (f"{store}/here/none", 400, "is not an artifact"),
            (f"{store}/three", 403, "is not below the URL of --models-root"),
            ("s3://models/one", 403, "is not below the URL of --models-root"),
            ("../three", 400, "has the part"),
        ):
            answer = load(path=path)
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
        given = load(path="two", source=f"{store}/here/one")
        assert (given.status_code, "set by the server" in given.text) == (400, True)
        assert digest(server) == two.digest
        server.models.load(ModelSpec(path=str(tiny_artifact), name="tiny"), {"path"})
        assert models(server)[0]["source"] == ""


def test_a_root_that_is_a_folder_admits_no_url(version: Callable[[str], Path], store: str, tmp_path: Path) -> None:
    folder = version("one")
    push(folder, f"{store}/one")
    with Server([spec(str(folder))], options(models_root=str(tmp_path))) as server:
        answer = httpx.post(f"{server.addresses.http}/admin/models", json={"name": "tiny", "path": f"{store}/one"})
        assert (answer.status_code, "is a folder of this server" in answer.text) == (403, True)


def test_a_served_artifact_stays_in_the_cache_also_while_its_model_sleeps(
    version: Callable[[str], Path], store: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    one, two = version("one"), version("two")
    push(one, f"{store}/one"), push(two, f"{store}/two")
    size = sum(file.stat().st_size for file in one.iterdir())
    monkeypatch.setenv("FLETCHER_CACHE_SIZE", str(int(size * 1.5)))
    with Server([spec(f"{store}/one", idle_seconds=0.1)], options()) as server:
        until(lambda: not models(server)[0]["awake"])
        with pytest.raises(SourceError, match="has no room"):
            Encoder.load(f"{store}/two", provider="mlas")
        answer = httpx.post(f"{server.addresses.http}/v1/embeddings", json={"input": "a", "model": "tiny"}, timeout=60)
        assert answer.status_code == 200
    Encoder.load(f"{store}/two", provider="mlas").close()
    assert len([folder for folder in cache.iterdir() if not folder.name.startswith(".")]) == 1


def test_a_toml_file_names_urls(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[[models]]\npath = "s3://models/prod.json"\n[[models]]\npath = "local"\nversion = "2"\n')
    assert [each.path for each in read_specs(file)] == ["s3://models/prod.json", str(tmp_path / "local")]
    file.write_text('[[models]]\npath = "local"\nsource = "s3://models/prod.json"\n')
    with pytest.raises(InputError, match="set by the server"):
        read_specs(file)


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["one-process", "fronts"])
def followed(
    request: pytest.FixtureRequest, version: Callable[[str], Path], s3_server: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server | Supervisor, str]]:
    """Return a server that follows an alias of a real S3 server, and the folder of the alias."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    place = f"s3://models/follow-{uuid.uuid4().hex[:12]}"
    push(version("one"), f"{place}/one", alias=f"{place}/prod.json")
    specs = [spec(f"{place}/prod.json")]
    server: Server | Supervisor
    if request.param:
        with Supervisor(specs, options(fronts=1)) as server:
            yield server, place
    else:
        with Server(specs, options()) as server:
            yield server, place


def test_no_request_fails_while_an_alias_changes_under_load(
    followed: tuple[Server | Supervisor, str], version: Callable[[str], Path], tiny_artifact: Path
) -> None:
    server, place = followed
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = encoder.embed(["a b c"]).vectors[0]
    stop = threading.Event()

    def ask() -> int:
        count = 0
        with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as client:
            while not stop.is_set():
                answer = client.post("/v1/embeddings", json={"input": "a b c", "model": "tiny"})
                assert answer.status_code == 200, answer.text
                np.testing.assert_allclose(answer.json()["data"][0]["embedding"], expected, atol=1e-6)
                count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask) for _ in range(4)]
        try:
            for name in ("two", "three"):
                pushed = push(version(name), f"{place}/{name}", alias=f"{place}/prod.json")
                until(partial(serves, server, pushed.digest))
        finally:
            stop.set()
        assert all(asker.result() > 10 for asker in askers)


@pytest.mark.slow
def test_fronts_read_an_alias_again_and_survive_an_engine_without_the_store(
    version: Callable[[str], Path], s3_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TcpProxy(s3_server) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        place = f"s3://models/restart-{uuid.uuid4().hex[:12]}"
        push(version("one"), f"{place}/one", alias=f"{place}/prod.json")
        with Supervisor([spec(f"{place}/prod.json")], options(follow_seconds=0, fronts=1)) as server:
            two = push(version("two"), f"{place}/two", alias=f"{place}/prod.json")
            server.reload([spec(f"{place}/prod.json")])
            until(partial(serves, server, two.digest))
            proxy.reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
            proxy.reply_after = 0
            before = server.pids[0]
            os.kill(before, signal.SIGKILL)
            until(lambda: server.pids[0] not in (0, before) and get(server, "/ready") == 200)
            assert digest(server) == two.digest


@pytest.mark.slow
def test_commands_take_urls(version: Callable[[str], Path], store: str, tmp_path: Path) -> None:
    push(version("one"), f"{store}/one", alias=f"{store}/prod.json")
    (tmp_path / "texts.txt").write_text("a b c\nd e\n")
    command = "import sys; from fletcher.serve.commands.cli import main; sys.argv[0] = 'fletcher-serve'; main()"
    arguments = ["embed", f"{store}/prod.json", "-i", "texts.txt", "-o", "vectors.npy", "--provider", "mlas"]
    subprocess.run([sys.executable, "-c", command, *arguments], cwd=tmp_path, env=os.environ, check=True)
    examined = subprocess.run(
        [sys.executable, "-c", command, "doctor", f"{store}/prod.json", "--provider", "mlas", "--all", "--json"],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert any("canary" in finding["found"] for finding in json.loads(examined.stdout))
    with Encoder.load(tmp_path / "made" / "one", provider="mlas") as encoder:
        vectors = encoder.embed(["a b c", "d e"]).vectors
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), vectors, atol=1e-6)
