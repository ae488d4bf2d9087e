"""Names of models: the card's id on the HuggingFace Hub, `--alias`, and `--default-model`, in one process and with fronts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

#: Names that clients send if their model cannot be set.
FIXED = "text-embedding-ada-002"


@pytest.fixture(scope="module", params=["0", "1"], ids=["one process", "fronts"])
def url(request: pytest.FixtureRequest, minilm_artifact: Path) -> Iterator[str]:
    """Return the URL of MiniLM as the command serves it, with two aliases and a default model."""
    arguments = ["--http", "127.0.0.1:0", "--flight", "off", "--workers", "1", "--fronts", request.param, "--json"]
    names = ["--alias", "one", "--alias", "org/two", "--default-model", "one"]
    command = [str(Path(sys.executable).parent / "fletcher-serve"), "run", str(minilm_artifact), *arguments, *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["http"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "minilm", HUB_ID, "one", "org/two", "all-MiniLM-L6-v2@1", FIXED])
def test_names_in_the_body(url: str, name: str) -> None:
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": name, "input": "a text"}, timeout=30)
    assert answer.status_code == 200
    # The answer names the model that answered.
    assert answer.json()["model"] == "all-MiniLM-L6-v2"


@pytest.mark.parametrize("name", [HUB_ID, "org/two", "one"])
def test_names_in_paths(url: str, name: str) -> None:
    assert httpx.get(f"{url}/v1/models/{name}").json()["id"] == "all-MiniLM-L6-v2"
    azure = f"{url}/openai/deployments/{name}/embeddings?api-version=2024-10-21"
    assert httpx.post(azure, json={"input": "a text"}, timeout=30).status_code == 200


def test_unknown_versions_and_unknown_models_in_lists_stay_unknown(url: str) -> None:
    body = {"model": "all-MiniLM-L6-v2@2", "input": "a text"}
    assert httpx.post(f"{url}/v1/embeddings", json=body, timeout=30).status_code == 404
    assert httpx.get(f"{url}/v1/models/{FIXED}").status_code == 404


def test_the_list_of_models_has_all_names(url: str) -> None:
    (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    assert {HUB_ID, "one", "org/two", "minilm"} <= set(model["names"])


def test_without_a_default_model_other_names_are_refused(fake_encoder: FakeEncoder) -> None:
    with Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        answer = httpx.post(f"{server.addresses.http}/v1/embeddings", json={"model": FIXED, "input": "ab"})
        assert answer.status_code == 404


def test_a_default_model_that_is_not_served_is_refused(fake_encoder: FakeEncoder) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", default_model="other")
    with pytest.raises(InputError, match="--default-model is 'other', but this server has 'fake-model'"):
        Server(fake_encoder, options)


def test_a_route_with_another_output_takes_the_first_model_that_has_it(fake_encoder: FakeEncoder) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", default_model="fake-model")
    body = {"model": "rerank-english-v3.0", "query": "a", "documents": ["b"]}
    with Server(fake_encoder, options) as server:
        answer = httpx.post(f"{server.addresses.http}/v1/rerank", json=body)
        assert answer.status_code == 404
        assert answer.json()["message"] == "no model of this server returns scores"


def test_an_alias_needs_a_single_model() -> None:
    command = [str(Path(sys.executable).parent / "fletcher-serve"), "run", "a", "b", "--alias", "one"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "--alias is for one folder, and there are 2" in done.stderr
