"""`open_model`: models of this process and of a server, with the results of sentence-transformers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher import Encoder
from fletcher.integrations.artifacts import find_artifact
from fletcher.integrations.model import LocalModel, open_model
from fletcher.integrations.ranking import best
from fletcher.integrations.remote import TEXTS as MOST_TEXTS
from fletcher.integrations.remote import RemoteModel
from fletcher.runtime.errors import DeadlineError, InputError, OverloadedError, ServiceError

from ..clients.conftest import KEY, running
from ..clients.reference import DOCUMENTS, QUERY
from ..convert.heads import test_classification
from .conftest import LOAD, TEXTS, Tiny, close


def test_a_model_gives_vectors_by_input_type_and_scores(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    model = open_model(**sources["embedder"])
    close(model.embed(TEXTS, "document"), tiny.documents)
    close(model.embed(TEXTS, "query"), tiny.queries)
    assert model.dimension == 32
    assert model.embed([], "document").shape == (0, 32)
    many = model.embed(TEXTS * MOST_TEXTS, "document")
    close(many, np.tile(tiny.documents, (MOST_TEXTS, 1)))
    with pytest.raises(InputError, match="nothing"):
        model.embed(TEXTS, "nothing")
    reranker = open_model(**sources["reranker"])
    close(reranker.score(QUERY, DOCUMENTS), tiny.scores)
    assert reranker.score(QUERY, []).shape == (0,)
    for one in (model, reranker):
        one.close()


def test_an_encoder_stays_open_for_its_owner(tiny: Tiny) -> None:
    with Encoder.load(tiny.embedder, LOAD) as encoder:
        model = open_model(encoder)
        assert open_model(model) is model
        model.close()
        close(encoder.embed(TEXTS).vectors, tiny.documents)


def test_options_that_do_not_fit_the_source_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="load has options of loading"):
        open_model("http://127.0.0.1:1", load=LOAD)
    with pytest.raises(InputError, match="name and api_key are for a server"):
        open_model(tiny.embedder, api_key="k")
    folder = find_artifact(test_classification.make(tmp_path / "labels", labels=3), cache_dir=tmp_path)
    with Encoder.load(folder, LOAD) as encoder, pytest.raises(InputError, match="several scores"):
        LocalModel(encoder, owned=False).score(QUERY, DOCUMENTS)


def test_equal_scores_keep_their_order() -> None:
    assert best(np.array([1, 3, 3, 2], np.float32), None) == [1, 2, 3, 0]
    assert best(np.array([1, 3, 3, 2], np.float32), 2) == [1, 2]


def test_a_served_model_is_named_or_the_first_that_fits(address: str) -> None:
    assert open_model(address).name == "embedder"
    assert open_model(f"{address}/v1/", name="prompted-checkpoint").dimension == 32  # the card's name
    with pytest.raises(InputError, match="has no model 'other'; it has embedder, reranker"):
        _ = open_model(address, name="other").dimension
    with pytest.raises(InputError, match="404"):
        open_model(address, name="other").embed(TEXTS, "document")


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run an HTTP server that answers every request in one way, and give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refuse(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_busy_server_is_asked_again_after_its_retry_after() -> None:
    asked: list[int] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(1)
        if len(asked) < 3:
            return refuse(handler, 429, b"{}", Retry_After="0.05")
        return refuse(handler, 200, np.ones((1, 4), "<f4").tobytes())

    with answering(answer) as url:
        assert RemoteModel(url, "m").embed(["a"], "document").tolist() == [[1, 1, 1, 1]]
    assert len(asked) == 3


@pytest.mark.parametrize(("model", "header"), [("m", "m"), ("größe", None), ("a\nb", None)])
def test_a_balancer_is_given_the_model_in_a_header(model: str, header: str | None) -> None:
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["X-Gateway-Model-Name"])
        refuse(handler, 200, np.ones((1, 4), "<f4").tobytes())

    with answering(answer) as url:
        RemoteModel(url, model).embed(["a"], "document")
    assert seen == [header]


def test_errors_of_a_server_have_its_message_and_fletchers_types() -> None:
    cases: list[tuple[int, bytes, type[Exception], str]] = [
        (429, b'{"error": {"message": "full"}}', OverloadedError, "full"),
        (400, b'{"error": {"message": "input[0] is empty"}}', InputError, r"answered 400: input\[0\] is empty"),
        (401, b'{"error": {"message": "no key"}}', ServiceError, "no key"),
        (502, b"<html>bad gateway", ServiceError, "answered 502: <html>bad gateway"),
    ]
    for status, body, kind, message in cases:
        with (
            answering(lambda handler, status=status, body=body: refuse(handler, status, body, Retry_After="9")) as url,  # type: ignore[misc]
            pytest.raises(kind, match=message),
        ):
            RemoteModel(url, "m", timeout=5).embed(["a"], "document")


def test_a_server_that_is_away_or_hangs_is_an_error() -> None:
    def hang(handler: BaseHTTPRequestHandler) -> None:
        threading.Event().wait(0.3)

    with answering(hang) as url:
        with pytest.raises(DeadlineError, match=r"within 0\.1 s"):
            RemoteModel(url, "m", timeout=0.1).embed(["a"], "document")
        away = url
    with pytest.raises(ServiceError, match="cannot be reached"):
        RemoteModel(away, "m").embed(["a"], "document")


@pytest.mark.slow
def test_a_server_with_fronts_and_a_key(tiny: Tiny, tmp_path: Path) -> None:
    import hashlib

    import msgspec

    from fletcher.serve.access.key import Key

    lines = [
        f'[[models]]\npath = "{path}"\nname = "{path.name}"\nprovider = "mlas"\nworkers = 1\n'
        for path in (tiny.embedder, tiny.reranker)
    ]
    (tmp_path / "server.toml").write_text("\n".join(lines))
    keys = tmp_path / "keys.json"
    keys.write_bytes(msgspec.json.encode({"keys": [Key("clients", hashlib.sha256(KEY.encode()).hexdigest())]}))
    keys.chmod(0o600)
    with running(tmp_path / "server.toml", 2, keys) as url:
        model = open_model(url, api_key=KEY)
        close(model.embed(TEXTS, "query"), tiny.queries)
        close(model.score(QUERY, DOCUMENTS), tiny.scores)
        with pytest.raises(ServiceError, match="401"):
            open_model(url).embed(TEXTS, "query")
