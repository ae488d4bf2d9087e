"""SOURCE strings, folders, pickles, and the path of the cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fletcher.model_zoo import fetch, list_models
from fletcher.model_zoo.errors import SourceError
from fletcher.model_zoo.locator import FolderSource, HubSource, PackageSource, parse_location
from fletcher.model_zoo.sources.cache import cache_folder
from fletcher.model_zoo.sources.folder import checkpoint_files


def test_a_model_that_fletcher_does_not_convert_is_refused_before_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [model for model in list_models() if model.refused is not None]
    monkeypatch.setattr("fletcher.model_zoo.sources.fetch.fetch_hub", pytest.fail)
    assert refused
    for model in refused:
        with pytest.raises(SourceError, match=f"does not convert {re.escape(model.name)} yet: ") as raised:
            fetch(model.name)
        assert str(model.refused) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "location", "canonical"),
    [
        ("org/name", HubSource("org/name", None), "hf:org/name"),
        ("hf:org/name@v1.0", HubSource("org/name", "v1.0"), "hf:org/name@v1.0"),
        ("org/na.me_1@refs/pr/3", HubSource("org/na.me_1", "refs/pr/3"), "hf:org/na.me_1@refs/pr/3"),
        ("pypi:a-b==1.0", PackageSource(("a-b==1.0",)), "pypi:a-b==1.0"),
        ("pypi:a==1, b==2.0.post1", PackageSource(("a==1", "b==2.0.post1")), "pypi:a==1,b==2.0.post1"),
    ],
)
def test_a_source_is_read_and_written(text: str, location: object, canonical: str) -> None:
    assert parse_location(text) == location
    assert str(parse_location(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "name", "a/b/c", "org/name@", "hf:name", "hf:", "pypi:", "pypi:a", "pypi:a>=1", "pypi:-r==1", "pypi:a==1,",
     "pypi:a==1 --index-url=x", "./nothing", "~nobody/x", "https://host/x", "../x/y", "org/name@a b"],
)  # fmt: skip
def test_the_error_of_an_invalid_source_lists_the_forms(text: str) -> None:
    with pytest.raises(SourceError, match=r"hub id|DISTRIBUTION==VERSION|not a folder"):
        parse_location(text)


def test_an_existing_folder_comes_before_a_hub_id(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    minilm.rename(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert parse_location("org/name") == FolderSource((tmp_path / "org" / "name").resolve())
    assert parse_location("hf:org/name") == HubSource("org/name", None)


def test_a_folder_is_checked_and_not_copied(minilm: Path) -> None:
    (minilm / "README.md").write_text("not used")
    (minilm / "onnx").mkdir()
    (minilm / "onnx" / "config.json").write_text("{}")
    fetched = fetch(str(minilm))
    assert (fetched.folder, fetched.source, fetched.revision, fetched.card) == (minilm, str(minilm), None, None)
    assert tuple(fetched.sha256) == checkpoint_files(minilm)
    assert "README.md" not in fetched.sha256
    assert "onnx/config.json" not in fetched.sha256
    # printf '{}' | sha256sum
    assert fetched.sha256["tokenizer.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_a_folder_that_is_not_a_checkpoint_is_rejected(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json"):
        fetch(str(tmp_path))
    with pytest.raises(SourceError, match="is not a folder"):
        fetch(str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match=r"no model 'minilmm'.*all-MiniLM.*not an existing folder"):
        fetch("minilmm")
    (minilm / "model.safetensors").rename(minilm / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (minilm / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(SourceError, match=r"incomplete: it lacks model-00002-of-00002\.safetensors"):
        fetch(str(minilm))


def test_pickles_are_used_where_there_are_no_safetensors(minilm: Path) -> None:
    (minilm / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin" not in fetch(str(minilm)).sha256
    (minilm / "model.safetensors").unlink()
    assert "pytorch_model.bin" in fetch(str(minilm)).sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, r"quantized by MLX .*mlx_lm\.convert .* --dequantize"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized by gptq .*save_pretrained"),
        ({"quantization": 4}, r"config\.json.*quantization"),
    ],
)
def test_quantized_weights_are_refused_with_the_next_step(minilm: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((minilm / "config.json").read_text())
    (minilm / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(SourceError, match=message):
        fetch(str(minilm))


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model-Q8_0.gguf", r"GGUF file of llama\.cpp \(model-Q8_0\.gguf\).*gguf_file='model-Q8_0\.gguf'"),
        ("weights.npz", r"those of MLX \(weights\.npz\).*mlx_lm\.convert --hf-path"),
    ],
)
def test_weights_of_llama_cpp_and_mlx_are_refused_with_a_command(
    minilm: Path, name: str, message: str, config: bool
) -> None:
    (minilm / "model.safetensors").rename(minilm / name)
    if not config:
        (minilm / "config.json").unlink()
    with pytest.raises(SourceError, match=message):
        fetch(str(minilm))


def test_weights_of_tensorflow_are_refused_with_a_command(minilm: Path) -> None:
    (minilm / "model.safetensors").rename(minilm / "tf_model.h5")
    with pytest.raises(SourceError, match=r"tf_model\.h5.*from_tf=True"):
        fetch(str(minilm))


def test_a_dense_module_needs_weights(minilm: Path) -> None:
    modules = json.loads((minilm / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (minilm / "modules.json").write_text(json.dumps(modules))
    (minilm / "2_Dense").mkdir()
    with pytest.raises(SourceError, match=r"2_Dense has no weights"):
        fetch(str(minilm))
    (minilm / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    assert "2_Dense/pytorch_model.bin" in fetch(str(minilm)).sha256


def test_remote_code_in_a_checkpoint_is_not_run(minilm: Path, tmp_path: Path) -> None:
    config = json.loads((minilm / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling.Model"}}
    (minilm / "config.json").write_text(json.dumps(config))
    (minilm / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "modeling.py" in fetch(str(minilm)).sha256  # for the conversion to refuse it
    assert not (tmp_path / "ran").exists()


def test_variables_set_the_path_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FLETCHER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "fletcher"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None) == tmp_path / "xdg" / "fletcher"
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "own"))
    assert cache_folder(None) == tmp_path / "own"
    assert cache_folder(tmp_path / "said") == tmp_path / "said"
