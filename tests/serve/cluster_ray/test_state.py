"""Ray Serve that runs in a cluster already: with HAProxy at the same address, or refused with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray import state
from fletcher.serve.cluster_ray.options import RayFile, RayOptions

FILE = RayFile(RayOptions(host="0.0.0.0", port=8000))


def cluster(actors: list[str], *, controller: bool = True) -> Any:
    """Return a cluster whose Ray lists these named actors, as Ray Serve 2.60 names them."""

    def get_actor(name: str, namespace: str) -> object:
        if not controller:
            raise ValueError(f"no actor {name}")
        return object()

    util = SimpleNamespace(list_named_actors=lambda all_namespaces: [{"name": name} for name in actors])
    return SimpleNamespace(ray=SimpleNamespace(get_actor=get_actor, util=util))


def at(monkeypatch: pytest.MonkeyPatch, host: str, port: int) -> None:
    monkeypatch.setattr(state, "_details", lambda: {"http_options": {"host": host, "port": port}})


def test_it_does_not_run() -> None:
    assert not state.serve_runs(cluster([], controller=False), FILE)


def test_it_runs_with_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "0.0.0.0", 8000)
    assert state.serve_runs(cluster(["SERVE_PROXY_ACTOR-n1", "SERVE_PROXY_ACTOR-fallback-n1"]), FILE)


def test_the_python_proxy_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "0.0.0.0", 8000)
    with pytest.raises(
        InputError, match=r"default proxy in Python, which costs about 7 ms and 6.9 ms of CPU .*serve shutdown"
    ):
        state.serve_runs(cluster(["SERVE_CONTROLLER_ACTOR", "SERVE_PROXY_ACTOR-n1"]), FILE)


def test_another_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "127.0.0.1", 9000)
    with pytest.raises(InputError, match=r"at 127.0.0.1:9000, and \[ray\] has 0.0.0.0:8000"):
        state.serve_runs(cluster(["SERVE_PROXY_ACTOR-fallback-n1"]), FILE)
