"""`cluster status` and `cluster config --check` on running servers: models, spaces, keys, TLS, and what is wrong."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fletcher.runtime.commandline.console import run
from fletcher.serve.commands.cli import app
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import CARD, SPACE, FakeEncoder
from ..tls.conftest import Authority

#: An address on which nothing listens.
OFF = "127.0.0.1:1"


def encoder(name: str, **changes: Any) -> FakeEncoder:
    made = FakeEncoder()
    card = msgspec.structs.replace(CARD, name=name, aliases=())
    made.info = msgspec.structs.replace(made.info, card=card, **changes)
    return made


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `sys.excepthook`, which `run` replaces, after each test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server and returns its address."""
    with ExitStack() as stack:

        def begin(made: FakeEncoder, **options: Any) -> str:
            server = stack.enter_context(
                Server(made, ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=5, **options))
            )
            return str(server.addresses.http).rpartition("//")[2]

        yield begin


def write(folder: Path, pools: dict[str, dict[str, str]], more: str = "") -> Path:
    """Write a `cluster.toml`: pools by name, which is also their model, with the addresses of instances by name."""
    lines = [more]
    for pool, instances in pools.items():
        lines.append(f'[[pools]]\nname = "{pool}"\nmodels = ["{pool}"]')
        lines += [f'[[pools.instances]]\nname = "{name}"\nhttp = "{at}"' for name, at in instances.items()]
    file = folder / "cluster.toml"
    file.write_text("\n".join(lines))
    return file


def command(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of `fletcher-serve cluster …`."""
    with pytest.raises(SystemExit) as ended:
        run(app, ["cluster", *map(str, words)])
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def test_every_instance_is_shown(start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = {"a": start(encoder("small")), "b": start(encoder("small"))}
    other = start(encoder("large"))
    httpx.post(f"http://{other}/v1/embeddings", json={"input": "ab", "model": "large"}).raise_for_status()
    file = write(tmp_path, {"small": at, "large": {"c": other}})
    code, output, errors = command("status", file, capsys=capsys)
    assert (code, errors) == (0, "")
    rows = [line.split() for line in output.splitlines() if "127.0.0.1" in line]
    assert [row[:5] for row in rows] == [
        ["small/a", at["a"], "ready", "small", "1"],
        ["small/b", at["b"], "ready", "small", "1"],
        ["large/c", other, "ready", "large", "1"],
    ]
    code, output, _ = command("status", file, "--json", capsys=capsys)
    state = json.loads(output)
    assert code == 0 and all(state[key] == [] for key in ("faults", "spaces", "artifacts", "unread"))
    (version,) = state["instances"][2]["versions"]
    described = httpx.get(f"http://{other}/v1/models").json()["data"][0]
    for key in ("space", "digest", "variant", "provider", "canary"):
        assert version[key] == described[key]
    assert version["ready"] is True and version["answers"] is True
    assert state["instances"][2]["queue_seconds"] == 0.0
    # The fake encoder counts 3 hits, and no misses.
    assert state["instances"][2]["cache_hits"] is None or state["instances"][2]["cache_hits"] == 1.0


def test_two_spaces_under_one_name_are_an_error_with_a_code_of_its_own(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = msgspec.structs.replace(SPACE, max_tokens=SPACE.max_tokens + 1)
    at = {"a": start(encoder("small")), "b": start(encoder("small", space=longer)), "c": start(encoder("small"))}
    file = write(tmp_path, {"small": at})
    code, _, errors = command("status", file, capsys=capsys)
    assert code == 3
    assert f"{SPACE.id} on small/a, small/c; {longer.id} on small/b" in errors
    code, output, errors = command("config", "haproxy", file, "--check", capsys=capsys)
    assert code == 1 and not output
    assert "small has different spaces" in errors


def test_other_artifacts_of_one_space_are_a_note_and_stop_a_check(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {"a": start(encoder("small")), "b": start(encoder("small", digest="facade"))}
    file = write(tmp_path, {"small": at})
    code, output, _ = command("status", file, capsys=capsys)
    assert code == 0
    assert "note: small has different artifacts of one space: c0ffee on small/a; facade on small/b" in output
    code, _, errors = command("config", "envoy", file, "--check", "-o", tmp_path / "envoy.yaml", capsys=capsys)
    assert code == 1 and "different artifacts" in errors
    assert not (tmp_path / "envoy.yaml").exists()


def test_instances_that_are_away_not_ready_or_without_the_model_are_named(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {"a": start(encoder("small")), "b": start(encoder("other")), "c": OFF}
    file = write(tmp_path, {"small": at})
    code, output, errors = command("status", file, capsys=capsys)
    assert code == 1
    assert "small/c is unreachable: 127.0.0.1:1 cannot be reached" in errors
    assert "small/b does not serve 'small', a model of its pool; it serves other" in errors
    assert "small/c" in output


def test_an_instance_that_stops_is_not_ready(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(encoder("small"), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        server.models.announce_stop()
        file = write(tmp_path, {"small": {"a": str(server.addresses.http).rpartition("//")[2]}})
        code, _, errors = command("status", file, capsys=capsys)
    assert code == 1 and "small/a is not ready: the server is stopping" in errors


def test_keys_come_from_a_file_or_the_environment(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "keys.json")
    keys = {}
    for role, option in (("user", []), ("monitor", ["--monitor"]), ("admin", ["--admin"])):
        with pytest.raises(SystemExit):
            run(app, ["keys", "add", role, *option, "--keys", file])
        keys[role] = capsys.readouterr().out.split()[-1]
        (tmp_path / role).write_text(keys[role] + "\n")
    cluster = write(tmp_path, {"small": {"a": start(encoder("small"), keys=file)}})

    def status(*words: str | Path) -> str:
        code, output, _ = command("status", cluster, *words, capsys=capsys)
        assert code == 0  # it is ready, which needs no key
        return output

    output = status()
    assert "small/a: /metrics: answered 401, because it needs a key" in output
    assert "small/a: /v1/models: answered 401, because it needs a key" in output
    output = status("--api-key-file", tmp_path / "user")
    assert SPACE.id in output and "/metrics: answered 403, because the role" in output
    output = status("--api-key-file", tmp_path / "monitor")
    assert "0.00" in output and "/v1/models: answered 403, because the role" in output
    monkeypatch.setenv("FLETCHER_CLUSTER_STATUS_API_KEY", keys["admin"])
    output = status()
    assert SPACE.id in output and "0.00" in output and "note" not in output
    code, _, errors = command("config", "haproxy", cluster, "--check", capsys=capsys)
    assert code == 1 and "small/a: /v1/models: answered 401" in errors
    code, _, _ = command("config", "haproxy", cluster, "--check", "--api-key-file", tmp_path / "user", capsys=capsys)
    assert code == 0


def test_instances_with_tls_are_asked_by_the_name_in_their_certificates(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography import x509

    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    pair = authority.issue("fletcher.internal", (x509.DNSName("fletcher.internal"),))
    certificate, key = pair.write(tmp_path / "served")
    at = start(encoder("small"), tls_cert=str(certificate), tls_key=str(key))
    tls = f'[tls]\ninstance_ca = "{tmp_path}/ca.pem"\ninstance_name = "fletcher.internal"\n'
    code, output, _ = command("status", write(tmp_path, {"small": {"a": at}}, tls), capsys=capsys)
    assert code == 0 and "ready" in output
    other = tls.replace("fletcher.internal", "other.internal")
    code, _, errors = command("status", write(tmp_path, {"small": {"a": at}}, other), capsys=capsys)
    assert code == 1 and "certificate" in errors.lower()


def test_a_check_passes_and_a_taken_port_is_named(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {"a": start(encoder("small"))}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        balancer = f'[balancer]\nhttp = "127.0.0.1:{taken.getsockname()[1]}"\n'
        file = write(tmp_path, {"small": at}, balancer)
        code, _, errors = command("config", "haproxy", file, "--check", capsys=capsys)
        assert code == 1 and "balancer.http" in errors and "the port is in use" in errors
    code, output, _ = command("config", "haproxy", file, "--check", capsys=capsys)
    assert code == 0 and "backend http_small" in output


def test_a_name_without_an_address_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[[pools]]\nname = "small"\nmodels = ["m"]\ndns = "nowhere.invalid"\n')
    code, _, errors = command("status", file, capsys=capsys)
    assert code == 1
    assert "the pool 'small' has the DNS name 'nowhere.invalid', which has no address" in errors


def test_addresses_of_a_name_are_instances(
    start: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = start(encoder("small"))
    port = at.rpartition(":")[2]
    file = tmp_path / "cluster.toml"
    file.write_text(f'[[pools]]\nname = "small"\nmodels = ["small"]\ndns = "localhost"\nhttp_port = {port}\n')
    _, output, _ = command("status", file, "--json", capsys=capsys)
    ready = [each for each in json.loads(output)["instances"] if each["state"] == "ready"]
    assert [each["address"] for each in ready] == [at]
