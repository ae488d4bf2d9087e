"""Every check of `doctor`, with a machine on which it finds nothing and with one on which it finds something."""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.machine.machine import Machine
from fletcher.serve.access.keys_file import add_key
from fletcher.serve.doctor import machine as machine_checks
from fletcher.serve.doctor import models as model_checks
from fletcher.serve.doctor.subject import Subject
from fletcher.serve.doctor.table import CHECKS, examine
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, canary, info
from .conftest import GIB, LOOPBACK, OUTSIDE, Make, found, the


def write(subject: Subject, path: str, text: str) -> None:
    file = subject.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_processors(make: Make) -> None:
    assert the("processors", make()) == ("ok", "8 processors for 1 process")
    fronts = LOOPBACK.replace(fronts=7)
    assert the("processors", make(options=fronts)) == ("ok", "8 processors for 8 processes")
    assert the("processors", make(options=LOOPBACK.replace(fronts=8)))[0] == "warning"
    subject = make()
    write(subject, "sys/fs/cgroup/cpu.max", "250000 100000")
    assert found("processors", subject)[0] == (
        "advice",
        "the control group allows 2.5 processors, and a part of one is not used",
    )


def test_memory(make: Make, tiny_artifact: Path) -> None:
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", cache="1GiB")
    assert the("memory", make(specs=[spec]))[0] == "ok"

    def small(size: int) -> Machine:
        return Machine("a processor", frozenset(), (0,), ((0,),), size)

    assert the("memory", make(specs=[spec], machine=small(GIB)))[0] == "error"
    assert the("memory", make(specs=[spec], machine=small(GIB * 7 // 4)))[0] == "warning"
    assert the("memory", make(machine=small(0)))[0] == "advice"
    subject = make(environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    write(subject, "proc/meminfo", "MemTotal: 1000 kB\n")
    assert found("memory", subject)[1] == ("advice", "the container has no limit of memory")
    write(subject, "sys/fs/cgroup/memory.max", "500000")
    assert len(found("memory", subject)) == 1


def test_open_files(make: Make) -> None:
    assert the("open files", make())[0] == "ok"
    assert the("open files", make(files=(1024, 65536)))[0] == "warning"


def test_connections(make: Make) -> None:
    subject = make()
    write(subject, "proc/sys/net/core/somaxconn", "4096\n")
    assert the("connections", subject)[0] == "ok"
    write(subject, "proc/sys/net/core/somaxconn", "128\n")
    assert the("connections", subject)[0] == "advice"


def test_clock(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the("clock", make()) == ("ok", "the clock is synchronized")
    assert the("clock", make(synchronized=lambda: None))[0] == "ok"
    assert the("clock", make(synchronized=lambda: False))[0] == "warning"
    monkeypatch.setattr(machine_checks, "time", SimpleNamespace(time=lambda: 0.0))
    assert the("clock", make())[0] == "error"


def test_user(make: Make) -> None:
    assert the("user", make())[0] == "ok"
    assert the("user", make(user=0))[0] == "warning"


def test_packages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the("packages", make())[0] == "ok"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "httptools" else real(name))
    assert the("packages", make()) == ("error", "not installed: httptools")


def test_addresses(make: Make) -> None:
    assert the("addresses", make())[0] == "ok"
    assert the("addresses", make(options=ServerOptions(http="0.0.0.0:0", flight="off")))[0] == "error"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        options = LOOPBACK.replace(http=f"127.0.0.1:{other.getsockname()[1]}")
        severity, text = the("addresses", make(options=options))
    assert severity == "advice" and "in use" in text


def test_transport(make: Make) -> None:
    assert the("transport", make())[0] == "ok"
    assert the("transport", make(options=OUTSIDE))[0] == "advice"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    add_key(file, "ann", "admin")
    file.chmod(0o640)
    return file


def test_keys(make: Make, keys: Path, tmp_path: Path) -> None:
    assert the("keys", make())[0] == "ok"
    assert the("keys", make(options=OUTSIDE))[0] == "warning"
    options = ServerOptions(http="0.0.0.0:0", flight="off", keys=str(keys))
    assert the("keys", make(options=options))[0] == "ok"
    for mode, severity in ((0o644, "warning"), (0o660, "error"), (0o602, "error")):
        keys.chmod(mode)
        assert the("keys", make(options=options))[0] == severity
    missing = options.replace(keys=str(tmp_path / "none.json"))
    assert the("keys", make(options=missing))[0] == "error"
    users = tmp_path / "users.json"
    add_key(users, "bob", "user")
    users.chmod(0o600)
    user_keys = options.replace(keys=str(users))
    assert [severity for severity, _ in found("keys", make(options=user_keys))] == ["ok"]
    assert found("keys", make(options=user_keys.replace(admin="on")))[1] == (
        "advice",
        "the admin API is on, and no key may use it",
    )
    now = datetime.datetime.now(datetime.UTC)
    add_key(users, "old", "user", expires=(now - datetime.timedelta(days=1)).isoformat())
    add_key(users, "soon", "user", expires=(now + datetime.timedelta(days=3)).isoformat())
    assert found("keys", make(options=user_keys))[1:] == [
        ("warning", "expired keys: old"),
        ("advice", "keys that expire within 14 days: soon"),
    ]


def test_stop(make: Make) -> None:
    assert the("stop", make()) == ("ok", "a stop takes up to 30 s")
    assert the("stop", make(options=OUTSIDE))[0] == "advice"
    assert the("stop", make(options=OUTSIDE.replace(lame_duck_seconds=5.0)))[0] == "ok"


def test_cache(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert the("cache", make())[0] == "ok"
    assert the("cache", make(cache=tmp_path / "not" / "there" / "yet"))[0] == "ok"
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert the("cache", make(cache=open_to_all))[0] == "error"
    assert the("cache", make(cache=open_to_all, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}))[0] == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert the("cache", make())[0] == "warning"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert the("cache", make())[0] == "warning"


def test_temporary_files(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the("temporary files", make())[0] == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert the("temporary files", make())[0] == "advice"
    assert the("temporary files", make(options=LOOPBACK.replace(fronts=2)))[0] == "error"


def test_gpus(make: Make) -> None:
    assert the("GPUs", make()) == ("ok", "no NVIDIA GPU")
    gpu = Gpu(0, "H200", 140 * GIB, (9, 0), "")
    assert the("GPUs", make(gpus=lambda: GpuSystem((gpu,), "580.1", (13, 0)))) == (
        "ok",
        "1 GPUs, driver 580.1, CUDA 13.0",
    )
    subject = make(gpus=lambda: GpuSystem(problem="the driver is too old"))
    write(subject, "dev/nvidiactl", "")
    severity, text = the("GPUs", subject)
    assert severity == "error" and "the driver is too old" in text


def test_providers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the("providers", make())[0] == "ok"
    assert the("providers", make(specs=[ModelSpec(path="a", provider="mlas")])) == (
        "ok",
        "the provider mlas can be used",
    )
    assert the("providers", make(specs=[ModelSpec(path="a", provider="coreml")]))[0] == "error"
    assert the("providers", make(specs=[ModelSpec(path="a", provider="none-such")]))[0] == "error"
    monkeypatch.setattr(model_checks, "missing", lambda provider, machine: "not installed")
    assert the("providers", make())[0] == "error"


def test_tokenizer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "package_problem", lambda: None)
    assert the("tokenizer", make())[0] == "ok"
    problem = SimpleNamespace(reason="nanotoken is not installed")
    monkeypatch.setattr(model_checks, "package_problem", lambda: problem)
    assert the("tokenizer", make())[0] == "advice"


@pytest.fixture
def own_artifact(tmp_path: Path, tiny_artifact: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact, tmp_path / "own"))


def test_artifacts(make: Make, own_artifact: Path) -> None:
    spec = ModelSpec(path=str(own_artifact), name="tiny")
    encoder = FakeEncoder()
    subject = make(specs=[spec], load=lambda spec: encoder)
    assert [severity for severity, _ in found("artifacts", subject)] == ["ok", "warning"]  # its canary is self-made
    encoder.canary = canary(passed=False, reason="cosine 0.5")
    assert found("artifacts", subject)[0][0] == "error"
    encoder.canary, encoder.info = canary(passed=True), info(fallback="CUDA is not there")
    assert ("warning", f"{own_artifact}: CUDA is not there") in found("artifacts", subject)
    encoder.info = info()
    own_artifact.chmod(0o777)
    assert ("warning", f"other users may write {own_artifact}") in found("artifacts", subject)
    assert the("artifacts", make()) == ("error", "there is no model to serve")
    assert the("artifacts", make(specs=[ModelSpec(path="/not/there")]))[0] == "error"


def test_a_damaged_artifact_is_an_error_of_the_real_load(make: Make, own_artifact: Path) -> None:
    from fletcher.serve.surroundings import load_encoder

    spec = ModelSpec(path=str(own_artifact), name="tiny", provider="mlas")
    assert found("artifacts", make(specs=[spec], load=load_encoder))[0][0] == "ok"
    weights = own_artifact / "weights.fp32.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    severity, text = the("artifacts", make(specs=[spec], load=load_encoder))
    assert severity == "error" and "sha256" in text


def test_the_report_has_every_check(make: Make) -> None:
    findings = list(examine(make()))
    assert {each.check for each in findings} == set(CHECKS)
    assert [each.check for each in findings if each.wrong] == ["artifacts"]  # no model
    assert msgspec.json.encode(findings)
