"""Each program of `examples/`, started as its docstring says."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from fletcher import Encoder
from fletcher.serve import Server, ServerOptions

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(program: str, *arguments: str | Path) -> str:
    """Return what a program prints."""
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(program: str, *arguments: str | Path) -> str:
    """Return what a program prints, run in this process, where torch is imported already."""
    output = io.StringIO()
    argv = [program, *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(output):
        runpy.run_path(str(EXAMPLES / program), run_name="__main__")
    return output.getvalue()


def test_every_example_is_tested_and_listed() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    tested = {
        "similarity.py",
        "search_file.py",
        "convert_and_quantize.py",
        "serve_in_process.py",
        "flight_client.py",
        "check_space.py",
        "embed_with_asyncio.py",  # tests/serve/embedded/test_async_engine.py
        "embed_with_daft.py",  # tests/integrations/frameworks/
        "embed_with_ray.py",
        "embed_with_spark.py",
    }
    assert programs == tested
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"]({name})" in listed for name in programs)


def test_similarity(minilm_artifact: Path) -> None:
    lines = run("similarity.py", minilm_artifact).splitlines()
    eats, rains, other = (float(line.split()[0]) for line in lines[:3])
    assert eats > 0.9 > max(rains, other)  # HuggingFace's cosine of the first two is 0.908
    assert lines[3] == "tokens of each text: 8 8 5"


def test_search_file(minilm_artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("A man is eating food.\n\nIt rains in Spain.\nThe stock market fell.\n", encoding="utf-8")
    lines = run("search_file.py", minilm_artifact, file, "What is the weather like?").splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("It rains in Spain.")


def test_convert_and_quantize(minilm_checkpoint: Path, tmp_path: Path) -> None:
    lines = run_here("convert_and_quantize.py", "all-MiniLM-L6-v2", tmp_path).splitlines()
    assert lines[0].startswith("all-MiniLM-L6-v2: 384 dimensions, canary's smallest cosine 1.0000")
    assert 0.99 < float(lines[2].split()[4].rstrip(",")) <= 1
    with Encoder.load(tmp_path / "int8", provider="mlas", workers=1) as encoder:
        assert encoder.dimension == 384


def test_serve_in_process(minilm_artifact: Path) -> None:
    assert run("serve_in_process.py", minilm_artifact) == "2 vectors of 384 dimensions; 7 tokens\n"


def test_flight_client(minilm_artifact: Path) -> None:
    options = ServerOptions(http="off", flight="127.0.0.1:0")
    with Encoder.load(minilm_artifact, provider="mlas", workers=2) as encoder, Server(encoder, options) as server:
        assert run("flight_client.py", str(server.addresses.flight)) == "1000 rows; fixed_size_list<item: float>[384]\n"


def test_check_space(minilm_artifact: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off")
    file = tmp_path / "space.json"
    with Encoder.load(minilm_artifact, provider="mlas", workers=1) as encoder, Server(encoder, options) as server:
        url = str(server.addresses.http)
        assert run("check_space.py", "save", file, url) == f"saved {encoder.info.space.id}\n"
        assert run("check_space.py", "check", file, url) == "the server gives vectors of the saved space\n"
    with Encoder.load(tiny_artifact, provider="mlas", workers=1) as encoder, Server(encoder, options) as server:
        command = [sys.executable, str(EXAMPLES / "check_space.py"), "check", str(file), str(server.addresses.http)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1 and done.stderr == ""
        assert "weights, graph, tokenizer, dimension, max_tokens differ" in done.stdout
        assert "differs from the saved one" in done.stdout


@pytest.mark.parametrize(
    "name", ["export", "verify", "quantize", "Encoder", "EmbedOptions", "LoadOptions", "Embeddings"]
)
def test_the_public_names_are_documented(name: str) -> None:
    import fletcher

    assert name in fletcher.__all__
    assert callable(getattr(fletcher, name))
    assert (getattr(fletcher, name).__doc__ or "").strip()
