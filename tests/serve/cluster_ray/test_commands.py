"""The commands without a cluster: help, files that cannot be used, and the packages that are missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fletcher.runtime.commandline.console import run
from fletcher.serve.commands.cli import SHARED, app

FILE = '[[ray.deployments]]\nname = "one"\n[[ray.deployments.models]]\npath = "model"\n'


def fletcher_serve(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the message of a command."""
    with pytest.raises(SystemExit) as ended:
        run(app, ["cluster", *words], shared=SHARED)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_a_misspelt_key_is_named_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(FILE.replace("name", "nmae", 1))
    code, message = fletcher_serve(capsys, "serve", str(file))
    assert code == 1
    assert "[ray.deployments] has no key 'nmae'; did you mean 'name'?" in message


def test_the_python_proxy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    file = tmp_path / "cluster.toml"
    file.write_text(FILE)
    code, message = fletcher_serve(capsys, "serve", str(file))
    assert code == 1
    assert "RAY_SERVE_ENABLE_HA_PROXY is '0': Ray Serve's default proxy in Python costs about 7 ms" in message


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "cluster.toml"
    file.write_text(FILE)
    monkeypatch.setattr("fletcher.serve.cluster_ray.environment.os.environ", {})
    for words in (["serve", str(file)], ["embed", str(tmp_path), "in", "out", "--address", "local"]):
        code, message = fletcher_serve(capsys, *words)
        assert code == 1
        assert "ray, which is not installed: pip install 'longbow-fletcher[cluster]'" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model", "in", "grpc://127.0.0.1:3000"], "is not grpc://HOST:PORT/DATASET"),
        (["model", "in", "out", "--id-column", "key"], "--id-column is for Longbow"),
    ],
)
def test_a_sink_that_cannot_be_used(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = fletcher_serve(capsys, "embed", *words)
    assert code == 1
    assert message in text
