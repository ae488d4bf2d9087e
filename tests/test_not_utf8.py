"""Files and requests that are not UTF-8: each reader raises its own error with every release of msgspec.

msgspec up to 0.22 raises `UnicodeDecodeError`; later releases raise their `DecodeError`. `make test-lowest` and
`make test-newest` run these tests with the lowest and the newest release that pyproject.toml allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher.convert.checkpoint.json_files import read_json
from fletcher.convert.texts import read_texts
from fletcher.model_zoo.errors import CardError, FletcherError, SourceError
from fletcher.model_zoo.sources.cache import read_record
from fletcher.model_zoo.sources.folder import require_weights
from fletcher.model_zoo.zoo import parse_card
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Artifact
from fletcher.runtime.errors import ArtifactError, CheckpointError, InputError
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning.history import recall, remember
from fletcher.runtime.tuning.measurement import Measurement
from fletcher.serve.access.keys_file import read_keys
from fletcher.serve.errors import FieldError
from fletcher.serve.files.lines import read_jsonl
from fletcher.serve.flight.options import read_options, read_ticket
from fletcher.serve.json_bodies import decode
from fletcher.serve.models.spec import ModelSpec, read_specs

JSON = (b"\xff", b'{"\xff": 1}', b'{"texts": ["\xff"]}', b'[{"path": "\xff"}]')
TOML = (b"\xff", b'name = "\xff"', b"# \xff\n")


def artifact(folder: Path) -> None:
    Artifact.open(folder)


def rows(folder: Path) -> None:
    with (folder / "rows.jsonl").open("rb") as file:
        list(read_jsonl(file, "rows.jsonl", "text"))


def checkpoint(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    require_weights(folder, "a checkpoint")


#: Name of the file, function that reads it from its folder, and expected error, by reader.
JSON_FILES: dict[str, tuple[str, Callable[[Path], object], type[FletcherError]]] = {
    "manifest": ("fletcher.json", artifact, ArtifactError),
    "settings": ("config.json", lambda folder: read_json(folder / "config.json"), CheckpointError),
    "record": ("record.json", lambda folder: read_record(folder / "record.json"), SourceError),
    "modules": ("modules.json", checkpoint, SourceError),
    "index": ("model.safetensors.index.json", checkpoint, SourceError),
    "texts": ("texts.jsonl", lambda folder: read_texts(folder / "texts.jsonl"), InputError),
    "rows": ("rows.jsonl", rows, InputError),
    "keys": ("keys.json", lambda folder: read_keys(folder / "keys.json"), InputError),
}

TOML_FILES: dict[str, tuple[str, Callable[[Path], object], type[FletcherError]]] = {
    "card": ("card.toml", lambda folder: parse_card((folder / "card.toml").read_bytes(), "card.toml"), CardError),
    "recipe": ("recipe.toml", lambda folder: load_recipe(folder / "recipe.toml"), InputError),
    "models": ("models.toml", lambda folder: read_specs(folder / "models.toml"), InputError),
}


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("reader", JSON_FILES)
def test_json_files(reader: str, content: bytes, tmp_path: Path) -> None:
    name, read, error = JSON_FILES[reader]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=re.escape(name)):
        read(tmp_path)


@pytest.mark.parametrize("content", TOML)
@pytest.mark.parametrize("reader", TOML_FILES)
def test_toml_files(reader: str, content: bytes, tmp_path: Path) -> None:
    name, read, error = TOML_FILES[reader]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=re.escape(name)):
        read(tmp_path)


NO_MODELS: Any = None  # JSON that cannot be decoded is refused before the models are used

#: Functions that read JSON from clients, by name.
BODIES: dict[str, Callable[[bytes], object]] = {
    "HTTP": lambda body: decode(msgspec.json.Decoder(ModelSpec), body),
    "Flight's options": lambda body: read_options(body, NO_MODELS),
    "Flight's ticket": lambda body: read_ticket(body, NO_MODELS),
}


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("reader", BODIES)
def test_requests(reader: str, content: bytes) -> None:
    with pytest.raises(FieldError):
        BODIES[reader](content)


@pytest.mark.parametrize("content", JSON)
def test_measurements_that_cannot_be_read_are_measured_again(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = Measurement(layout=WorkerLayout("mlas", 1, 1, 512), latency_ms=1.0)
    monkeypatch.setattr("fletcher.runtime.tuning.history.cache_folder", lambda cache_dir: tmp_path)
    remember("machine", "0" * 64, "cpu-fp32", [measurement])
    (file,) = (tmp_path / "devices").iterdir()
    assert recall("machine", "0" * 64, "cpu-fp32") == [measurement]
    file.write_bytes(content)
    assert recall("machine", "0" * 64, "cpu-fp32") is None


def test_no_reader_calls_msgspec_decode_directly() -> None:
    # `fletcher.serve.json_bodies` translates the errors of a prepared `msgspec.json.Decoder`.
    allowed = {"model_zoo/decode.py"}
    root = Path(__file__).resolve().parent.parent
    folders = ("convert", "model_zoo", "quantize", "runtime", "serve")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    direct = re.compile(r"msgspec\.(json|toml|yaml|msgpack)\.decode\(")
    assert {path.relative_to(root).as_posix() for path in files if direct.search(path.read_text("utf-8"))} == allowed
