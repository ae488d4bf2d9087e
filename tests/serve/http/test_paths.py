"""Paths of the routes: other paths, trailing slashes, a name inside a path, and keys in the headers of other servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.http.call import Call, Response
from fletcher.serve.http.route import Route, RouteTable, named_part
from fletcher.serve.http.routes import computing_routes, http_routes
from fletcher.serve.models.changes import AdminRules
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, expected

OPTIONS = ServerOptions(http="127.0.0.1:0", flight="off", admin="on", models_root="/")

BODY = {"model": "fake-model", "input": "ab"}
AZURE = "/openai/deployments/fake-model/embeddings"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(FakeEncoder(), OPTIONS) as server:
        yield str(server.addresses.http)


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as client:
        yield client


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/openai/v1/embeddings", AZURE])
def test_paths_of_embeddings(http: httpx.Client, path: str, slash: str) -> None:
    answer = http.post(path + slash, json=BODY).json()
    assert answer["data"][0]["embedding"] == expected("ab").tolist()
    assert answer["model"] == "fake-model"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/livez", "/ping", "/ready", "/readyz", "/metrics", "/v1/models", "/docs"]
)
def test_paths_of_get_routes(http: httpx.Client, path: str, slash: str) -> None:
    assert http.get(path + slash).status_code == 200
    assert http.head(path + slash).status_code == 200


def test_every_path_may_end_with_a_slash() -> None:
    routes = http_routes(None, AdminRules("on"))
    table = RouteTable(routes)
    for route in routes:
        for path in (route.path, *route.also):
            concrete = path.replace("{id}", "x").replace("{name}", "x").replace("{model}", "x")
            name, methods = table.find(concrete)
            assert (name, methods[route.method]) == (route.path, route)
            if path != "/":
                assert table.find(f"{concrete}/") == (name, methods)
                parametric = ("/v1/models/{id}", "/admin/models/{name}", "/playground/{file}")
                assert table.find(f"{concrete}//")[0] in ("unknown", *parametric)


def test_no_two_routes_have_the_same_path_and_method() -> None:
    seen = [(route.method, path) for route in http_routes(None, AdminRules("on")) for path in (route.path, *route.also)]
    assert len(set(seen)) == len(seen)


async def nothing(call: Call) -> Response:
    return Response(200, b"")


def test_a_name_inside_a_path() -> None:
    route = Route("POST", "/a/{name}/b", nothing)
    table = RouteTable([route])
    for path, name in (("/a/x/b", "x"), ("/a/org/model/b", "org/model"), ("/a/x/b/", "x")):
        assert table.find(path)[1] == {"POST": route}
        assert named_part(path, route.path) == name
    for path in ("/a//b", "/a/b", "/a/x", "/a/x/c", "/a/x/bb"):
        assert table.find(path) == ("unknown", {})


def test_the_client_of_azure(url: str) -> None:
    with openai.AzureOpenAI(azure_endpoint=url, api_key="unused", api_version="2024-10-21", max_retries=0) as client:
        answer = client.embeddings.create(model="fake-model", input=["ab"])
    assert answer.data[0].embedding == expected("ab").tolist()
    deployment = openai.AzureOpenAI(
        azure_endpoint=url, azure_deployment="fake-model", api_key="unused", api_version="2024-10-21", max_retries=0
    )
    with deployment as client:
        assert client.embeddings.create(model="other", input="ab").data[0].embedding == expected("ab").tolist()


def test_the_path_of_azure_names_the_model(http: httpx.Client) -> None:
    assert http.post(f"{AZURE}?api-version=2024-10-21", json={"input": "ab"}).status_code == 200
    unknown = http.post("/openai/deployments/gpt/embeddings", json=BODY)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["param"] == "model"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Return the URL of a server with keys, and a key."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key = add_key(Path(file), "ann")
    with Server(
        FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", admin="on", models_root="/", keys=str(file))
    ) as server:
        yield str(server.addresses.http), key


@pytest.mark.parametrize("header", ["api-key", "x-api-key", "authorization"])
def test_a_key_in_the_headers_of_other_servers(guarded: tuple[str, str], header: str) -> None:
    url, key = guarded
    value = f"Bearer {key}" if header == "authorization" else key
    assert httpx.post(f"{url}{AZURE}", json=BODY, headers={header: value}).status_code == 200
    assert httpx.post(f"{url}{AZURE}", json=BODY, headers={header: value[:-1]}).status_code == 401
    # `Authorization` has precedence.
    both = {"api-key": key, "authorization": "Bearer wrong"}
    assert httpx.post(f"{url}{AZURE}", json=BODY, headers=both).status_code == 401


def test_the_client_of_azure_with_a_key(guarded: tuple[str, str]) -> None:
    url, key = guarded
    with openai.AzureOpenAI(azure_endpoint=url, api_key=key, api_version="2024-10-21", max_retries=0) as client:
        assert client.embeddings.create(model="fake-model", input="ab").data[0].embedding == expected("ab").tolist()


def test_a_front_answers_all_paths_of_its_routes() -> None:
    hot = RouteTable(route for route in computing_routes() if route.method == "POST")
    for path in ("/v1/embeddings/", "/embeddings", AZURE, f"{AZURE}/", "/v1/rerank", "/api/embed"):
        assert hot.find(path)[1], path
    for path in ("/v1/models", "/v1/models/x", "/metrics", "/admin/models"):
        assert not hot.find(path)[1], path
