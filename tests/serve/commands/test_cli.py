"""The commands of `fletcher-serve`, with a fake encoder, and as processes as a user starts them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from openai import OpenAI

from fletcher.runtime import Artifact, Embeddings, Encoder
from fletcher.runtime.commandline.console import run
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions
from fletcher.serve.commands.cli import app

from ..fake_encoder import CARD, info


class Lengths:
    """Fake encoder: the vector of a text is its length twice. Each character is one token, at most four."""

    info = info(
        card=msgspec.structs.replace(CARD, name="lengths", dimension=2, matryoshka=(1,)),
        dimension=2,
        max_tokens=4,
        variant="hand-fp32",
    )

    def __enter__(self) -> Lengths:
        return self

    def __exit__(self, *_: object) -> None: ...

    def stream(self, chunks: Any, options: EmbedOptions) -> Any:
        for chunk in chunks:
            lengths = np.array([len(text) for text in chunk])
            vectors = np.stack([lengths, lengths], axis=1).astype(np.float32)
            yield Embeddings(vectors[:, : options.dimensions], np.minimum(lengths, 4), np.maximum(lengths - 4, 0))


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `sys.excepthook`, which `run` replaces, after each test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace `Encoder.load`, and return the arguments of its calls."""
    calls: list[dict[str, Any]] = []

    def load(path: Path, options: LoadOptions) -> Lengths:
        calls.append({"path": path, **msgspec.structs.asdict(options)})
        return Lengths()

    manifest = SimpleNamespace(card=Lengths.info.card, variants=())  # the command compares its options with it
    monkeypatch.setattr(Artifact, "open", lambda path: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(Encoder, "load", load)
    return calls


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, args)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"body": "a", "n": 1}\n{"body": "four"}\n{"body": "eleven long"}\n')
    return path


def test_embed_json(
    loads: list[dict[str, Any]], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.npy"
    options = ["--column", "body", "--workers", "1", "--token-budget", "64", "--chunk-size", "2", "--json"]
    assert call("embed", "model", "-i", str(source), "-o", str(output), *options) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary.pop("seconds") > 0
    assert summary.pop("texts_per_second") > 0
    assert summary.pop("tokens_per_second") > 0
    assert summary.pop("space") == json.loads(Path(f"{output}.json").read_text())["space"]
    assert summary == {
        "output": str(output),
        "model": "lengths",
        "variant": "hand-fp32",
        "provider": "by hand",
        "texts": 3,
        "dimension": 2,
        "tokens": 9,
        "truncated_texts": 1,
        "dropped_tokens": 7,
    }
    assert "embedding: 3/3 texts" in captured.err
    assert "warning: 1 of 3 texts were longer than 4 tokens and were truncated: 7 tokens" in captured.err
    np.testing.assert_array_equal(np.load(output), [[1, 1], [4, 4], [11, 11]])
    assert [(call["path"], call["workers"], call["token_budget"]) for call in loads] == [(Path("model"), 1, 64)]
    assert (loads[0]["variant"], loads[0]["provider"], loads[0]["cache"]) == (None, "auto", "64MiB")


def test_embed_as_text(
    loads: list[dict[str, Any]], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("embed", "m", "-i", str(source), "-o", str(tmp_path / "o.npy"), "--column", "body", "--dimensions", "1")
        == 0
    )
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["texts"].strip() == "3"
    assert lines["dimension"].strip() == "1"
    assert lines["truncated texts"].strip() == "1"


def test_dimensions_that_the_model_lacks_are_rejected_before_it_is_loaded(
    loads: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("embed", "m", "-i", str(tmp_path / "none"), "-o", str(tmp_path / "o.npy"), "--dimensions", "7") == 1
    assert capsys.readouterr().err == "fletcher-serve: error: dimensions is 7; lengths gives vectors of 2, 1\n"
    assert loads == []


def test_embed_of_no_texts_warns(
    loads: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").touch()
    assert call("embed", "m", "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "o.npy")) == 0
    assert "has no text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["-i", "none.txt", "-o", "o.npy"], 1, "none.txt: no such file or folder"),
        (["-i", "in.txt", "-o", "o.xls"], 1, "'.xls' is not supported for vectors"),
        (["-i", "in.txt", "-o", "there.npy"], 1, "there.npy exists"),
        (["-i", "in.txt", "-o", "o.npy", "--format", "pdf"], 1, "the format 'pdf' is unknown"),
        (["-i", "in.txt", "-o", "o.npy", "--chunk-size", "0"], 2, "chunk-size"),
        (["-i", "in.txt"], 2, "output"),
    ],
)
def test_embed_that_cannot_be_done(
    args: list[str],
    code: int,
    message: str,
    loads: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("a\n")
    Path("there.npy").write_bytes(b"older")
    assert call("embed", "m", *args) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "there.npy"]
    assert Path("there.npy").read_bytes() == b"older"


def test_a_folder_that_is_not_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    assert call("embed", str(tmp_path), "-i", str(tmp_path / "in.txt"), "-o", str(tmp_path / "o.npy")) == 1
    error = capsys.readouterr().err
    assert error.startswith("fletcher-serve: error: ")
    assert str(tmp_path) in error
    assert "Traceback" not in error


def start(*args: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "fletcher-serve"), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_run_logs_its_addresses_answers_and_stops(minilm_artifact: Path) -> None:
    ports = ("--http", "127.0.0.1:0", "--flight", "off", "--name", "mine", "--workers", "1", "--json")
    process = start("run", str(minilm_artifact), *ports)
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        assert addresses["flight"] is None
        with OpenAI(base_url=f"{addresses['http']}/v1", api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["mine"]
            assert len(client.embeddings.create(model="mine", input="a text").data[0].embedding) == 384
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_run_on_a_port_in_use_names_the_option(minilm_artifact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        address = f"127.0.0.1:{occupied.getsockname()[1]}"
        process = start("run", str(minilm_artifact), "--http", address, "--flight", "off", "--workers", "1")
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"--http {address}: the port is in use" in error
    assert "Traceback" not in error


def test_run_without_http_and_flight_is_rejected(minilm_artifact: Path) -> None:
    process = start("run", str(minilm_artifact), "--http", "off", "--flight", "off", "--workers", "1")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "needs one of them" in error


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from fletcher.serve.commands.cli import main
main()
"""


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    command = [sys.executable, "-c", BLOCKED.format(package="pyarrow"), "embed", "m", "-i", "in.txt", "-o", "o.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'longbow-fletcher[flight]'" in done.stderr
    assert "Traceback" not in done.stderr
