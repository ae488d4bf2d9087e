"""Embedding and load options: every entry point gives the same results, and rejects invalid options before a load."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from numpy.typing import NDArray

from fletcher.convert.export.export import export
from fletcher.runtime import Artifact, Encoder, LoadOptions
from fletcher.runtime.errors import InputError, OptionError, TooLongError
from fletcher.serve.models.spec import read_specs
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..convert.tiny import HIDDEN, MAX_TOKENS, save_bert, save_modules
from ..doubles.longbow import LongbowDouble
from .entry_points import ENTRY_POINTS, RefusedError, World

SHORT = "warm bread"
LONG = "the central bank raised interest rates again today"
TEXTS = (SHORT, LONG, "a key")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT with mean pooling, whose vectors are not normalized."""
    folder = tmp_path_factory.mktemp("entry_points") / "checkpoint"
    save_bert(folder)
    save_modules(folder, normalize=False)
    return folder


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    export(str(checkpoint), checkpoint.parent / "artifact")
    return checkpoint.parent / "artifact"


@pytest.fixture(scope="module")
def unit_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same model with a Normalize module."""
    folder = tmp_path_factory.mktemp("unit") / "checkpoint"
    save_bert(folder)
    save_modules(folder)
    export(str(folder), folder.parent / "artifact")
    return folder.parent / "artifact"


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> dict[str, NDArray[np.float32]]:
    """Return the vectors from transformers, float32, (n, dimension), by the side at which long texts are truncated."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()

    def mean_of_tokens(text: str) -> NDArray[np.float32]:
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            mean: NDArray[np.float32] = model(**tokens).last_hidden_state[0].mean(0).numpy()
        return mean

    vectors = {}
    for side in ("right", "left"):
        tokenizer.truncation_side = side
        vectors[side] = np.stack([mean_of_tokens(text) for text in TEXTS])
    assert len(tokenizer(LONG)["input_ids"]) > MAX_TOKENS
    assert np.abs(vectors["left"][1] - vectors["right"][1]).max() > 0.1
    assert (
        np.abs(np.linalg.norm(vectors["right"], axis=1) - 1).min() > 0.1
    )  # otherwise normalization would have no effect
    return vectors


@pytest.fixture(scope="module")
def parts(artifact: Path) -> Iterator[tuple[Encoder, Server, LongbowDouble]]:
    """Return one encoder, server and database for all tests of this file."""
    with LongbowDouble() as longbow, Encoder.load(artifact, provider="mlas", workers=1, token_budget=64) as encoder:
        options = ServerOptions(
            http="127.0.0.1:0", flight="127.0.0.1:0", longbow=longbow.url, name="tiny", admin="on", models_root="/"
        )
        with Server(encoder, options) as server:
            yield encoder, server, longbow


@pytest.fixture
def world(
    tmp_path: Path,
    artifact: Path,
    parts: tuple[Encoder, Server, LongbowDouble],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # because commands set it
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, artifact, *parts, capsys)


def by_numpy(vectors: NDArray[np.float32], dtype: str, normalize: bool | None) -> tuple[NDArray[Any], Any]:
    """Apply options to vectors in numpy. Return (n, elements), and the scales of int8 vectors, (n,)."""
    if normalize:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if dtype == "int8":
        scales = np.abs(vectors).max(axis=1) / np.float32(127)
        codes = vectors / scales[:, None]
        return np.rint(codes).astype(np.int8), scales
    if dtype == "ubinary":
        assert np.abs(vectors).min() > 1e-4  # so that rounding does not change a sign
        return np.packbits(vectors > 0, axis=1), None
    return vectors.astype(dtype), None


CASES: dict[str, dict[str, Any]] = {
    "no options": {},
    "normalize": {"normalize": True},
    "not normalize": {"normalize": False},
    "truncate": {"overflow": "truncate"},
    "truncate_left": {"overflow": "truncate_left"},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "int8"},
    "ubinary": {"dtype": "ubinary"},
    "float16 of normalized": {"dtype": "float16", "normalize": True},
    "int8 of normalized ends": {"dtype": "int8", "normalize": True, "overflow": "truncate_left"},
    "ubinary of ends": {"dtype": "ubinary", "normalize": False, "overflow": "truncate_left"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_options_return_the_vectors_computed_by_numpy(
    name: str, case: str, world: World, plain: dict[str, NDArray[np.float32]]
) -> None:
    entry_point, options = ENTRY_POINTS[name], CASES[case]
    dtype, normalize = options.get("dtype", "float32"), options.get("normalize")
    if options and not entry_point.options:
        return  # it does not take options; the first case compares its vectors
    if dtype not in entry_point.dtypes:
        with pytest.raises(RefusedError, match=f"{entry_point.names.get('dtype', 'dtype')}|ubinary"):
            entry_point.call(world, TEXTS, options)
        return
    if entry_point.unit and not normalize:
        with pytest.raises(RefusedError, match=r"a vector has the norm .* and not 1"):
            entry_point.call(world, TEXTS, options)
        return
    vectors, scales = entry_point.call(world, TEXTS, options)
    expected, expected_scales = by_numpy(plain["left" if "left" in str(options) else "right"], dtype, normalize)
    if entry_point.widens and expected_scales is not None:
        expected = expected * expected_scales[:, None]
        if entry_point.unit:
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        # A value between two codes can be rounded to either, because the graph and torch differ slightly in float32.
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1.01 * expected_scales.max())
        return
    assert vectors.shape == expected.shape
    assert vectors.dtype == (np.float32 if entry_point.widens else expected.dtype)
    if dtype == "ubinary":
        np.testing.assert_array_equal(vectors, expected)
    elif dtype == "int8":
        off = np.abs(vectors.astype(int) - expected.astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 0.05
        assert (scales is not None) == entry_point.scales
        if entry_point.scales:
            np.testing.assert_allclose(scales, expected_scales, rtol=1e-4)
    else:
        rounding = 2.0**-10 if dtype == "float16" else 1e-5
        np.testing.assert_allclose(vectors.astype(np.float32), expected.astype(np.float32), rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if ENTRY_POINTS[name].options])
def test_refuse_rejects_only_texts_that_are_too_long(
    name: str, world: World, plain: dict[str, NDArray[np.float32]]
) -> None:
    entry_point, options = ENTRY_POINTS[name], {"overflow": "refuse", "normalize": True}
    message = r"(text 1|row 1|\w+\[1\]) has 45 tokens, and checkpoint takes at most 20"
    with pytest.raises((RefusedError, TooLongError), match=message):
        entry_point.call(world, TEXTS, options)
    vectors, _ = entry_point.call(world, TEXTS[::2], options)
    expected, _ = by_numpy(plain["right"][::2], "float32", True)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)


def test_a_model_with_normalized_vectors_cannot_return_others(unit_artifact: Path, world: World) -> None:
    (world.folder / "texts.txt").write_text("a\n")
    with pytest.raises(RefusedError, match="normalize is false"):
        world.command("embed", unit_artifact, "-i", "texts.txt", "-o", "out.npy", "--no-normalize")
    with Encoder.open(Artifact.open(unit_artifact)) as encoder, pytest.raises(OptionError, match="normalize is false"):
        encoder.embed(["a"], normalize=False)


# Rejections ------------------------------------------------------------------------------------------------------------

EMBED_FIELDS: list[tuple[str, Any]] = [
    ("dimensions", -1),
    ("dimensions", HIDDEN - 1),
    ("dtype", "float8"),
    ("overflow", "squeeze"),
    ("window_tokens", 0),
    ("window_tokens", 5),  # needs an overflow that makes windows
]

LOAD_FIELDS: list[tuple[str, Any]] = [
    ("workers", 0),
    ("min_cosine", 2),
    ("provider", "nowhere"),
    ("memory_limit", "64MiX"),
    ("cache", "-1"),
]


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch, parts: object) -> None:
    """Fail the test if it opens a model or a session, or computes with the open one."""

    def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("something was loaded or computed before the options were checked")

    monkeypatch.setattr(Encoder, "open", fail)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    for method in ("prepare", "run", "compute"):
        monkeypatch.setattr(Encoder, method, fail)


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize(("field", "value"), EMBED_FIELDS)
@pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if ENTRY_POINTS[name].options])
def test_errors_name_wrong_embed_options(name: str, field: str, value: Any, world: World) -> None:
    entry_point = ENTRY_POINTS[name]
    named = entry_point.names.get(field, field)
    with pytest.raises((RefusedError, OptionError), match=f"\\b{named}\\b|--{field.replace('_', '-')}") as caught:
        entry_point.call(world, [SHORT], {field: value})
    if isinstance(caught.value, OptionError):
        assert caught.value.field == field


def python_load(artifact: Path, options: dict[str, Any]) -> None:
    Encoder.load(artifact, **options)


def python_struct(artifact: Path, options: dict[str, Any]) -> None:
    Encoder.load(artifact, LoadOptions(**options))


def toml_models(artifact: Path, options: dict[str, Any]) -> None:
    file = artifact.parent / "models.toml"
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    file.write_text(f'[[models]]\npath = "{artifact}"\n{lines}')
    Server(read_specs(file), ServerOptions(http="127.0.0.1:0", flight="off"))


PYTHON: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "Encoder.load(**fields)": python_load,
    "Encoder.load(LoadOptions)": python_struct,
    "[[models]] of a TOML file": toml_models,
}


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize(("field", "value"), LOAD_FIELDS)
@pytest.mark.parametrize("name", PYTHON)
def test_wrong_load_options_are_rejected_in_python_and_toml(name: str, field: str, value: Any, artifact: Path) -> None:
    with pytest.raises(InputError, match=field):
        PYTHON[name](artifact, {field: value})


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize(("field", "value"), LOAD_FIELDS)
def test_wrong_load_options_are_rejected_by_the_admin_api(field: str, value: Any, world: World) -> None:
    body = {"path": str(world.artifact), "name": "another", field: value}
    answer = httpx.post(f"{world.server.addresses.http}/admin/models", json=body, timeout=20)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


#: Commands that load a model, with their other required arguments. `bench` does not have the option `cache`.
COMMANDS: dict[str, list[str]] = {
    "embed": ["-i", "texts.txt", "-o", "vectors.npy"],
    "ingest": ["-i", "texts.txt", "--longbow", "grpc://127.0.0.1:9", "--dataset", "docs"],
    "search": ["a text", "--longbow", "grpc://127.0.0.1:9", "--dataset", "docs"],
    "bench": ["--texts", "texts.txt"],
    "run": ["--http", "127.0.0.1:0", "--flight", "off"],
}


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize(("field", "value"), LOAD_FIELDS)
@pytest.mark.parametrize("place", ["command line", "environment", "file"])
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_load_options_are_rejected_by_every_command(
    command: str, place: str, field: str, value: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (command, field) == ("bench", "cache"):
        return
    (world.folder / "texts.txt").write_text("a\n")
    words = [command, str(world.artifact), *COMMANDS[command]]
    option = field.replace("_", "-")
    if place == "command line":
        words += [f"--{option}={value}"]
    elif place == "environment":
        monkeypatch.setenv(f"FLETCHER_{command}_{field}".upper(), str(value))
    else:
        (world.folder / "config.toml").write_text(f"[{command}]\n{option} = {json.dumps(value)}\n")
        words += ["--config", "config.toml"]
    with pytest.raises(RefusedError, match=f"{field}|--{option}"):
        world.command(*words)
    assert not (world.folder / "vectors.npy").exists()


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize(("field", "value"), EMBED_FIELDS)
def test_wrong_embed_options_of_a_search_are_rejected_before_longbow_is_called(
    field: str, value: Any, world: World
) -> None:
    option = field.replace("_", "-")
    with pytest.raises(RefusedError, match=f"{field}|--{option}"):
        world.command("search", world.artifact, *COMMANDS["search"], f"--{option}={value}")
