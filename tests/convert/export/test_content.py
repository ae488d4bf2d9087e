"""Digests of an artifact's content: equal for equal vectors, whatever the files, and different for other vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from fletcher.convert.export.content import hash_tokenizer
from fletcher.convert.export.export import export
from fletcher.convert.spaces import diff_spaces, read_space
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.opening import open_session

#: Digests of the tiny checkpoint, whose weights and tokenizer are those of `tests/convert/tiny.py`. A change of Fletcher that
#: changes them gives every artifact another identifier, although its vectors are the same.
IDENTIFIER_OF_MINILM = "fs1-463c5fobuoprwgsz"


def changed_json(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def changed_tensor(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"] = tensors["encoder.layer.1.output.dense.bias"] + np.float32(1e-3)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def in_two_files(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places: dict[str, str] = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{part}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in chosen}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def without_normalize(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([one for one in modules if "Normalize" not in one["type"]]))


def with_lower_case_off(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    changed_json(folder, "tokenizer_config.json", do_lower_case=False)


def exported(checkpoint: Path, change: Callable[[Path], None], folder: Path) -> Path:
    """Return the artifact of a changed copy of a checkpoint."""
    shutil.copytree(checkpoint, folder / "checkpoint")
    change(folder / "checkpoint")
    return export(str(folder / "checkpoint"), folder / "artifact", verify=False).path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(in_two_files, id="weights in two files"),
        pytest.param(lambda folder: changed_json(folder, "config.json", _name_or_path="elsewhere"), id="another path"),
        pytest.param(
            lambda folder: (folder / "tokenizer.json").write_text(
                json.dumps(json.loads((folder / "tokenizer.json").read_text()), indent=7)
            ),
            id="spaces in the tokenizer's file",
        ),
    ],
)
def test_what_changes_no_vector_changes_no_identifier(
    tiny_checkpoint: Path, tiny_artifact: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    other = exported(tiny_checkpoint, change, tmp_path)
    assert Artifact.open(other).manifest.origin.sha256 != Artifact.open(tiny_artifact).manifest.origin.sha256
    diff = diff_spaces(read_space(tiny_artifact), read_space(other))
    assert diff.equal and not diff.differences


@pytest.mark.parametrize(
    ("change", "components"),
    [
        pytest.param(changed_tensor, ["weights"], id="one weight"),
        pytest.param(lambda folder: changed_json(folder, "config.json", layer_norm_eps=1e-6), ["graph"], id="epsilon"),
        pytest.param(lambda folder: changed_json(folder, "config.json", hidden_act="relu"), ["graph"], id="activation"),
        pytest.param(lambda folder: changed_json(folder, "config.json", num_attention_heads=8), ["graph"], id="heads"),
        pytest.param(without_normalize, ["graph", "normalize"], id="no normalization"),
        pytest.param(with_lower_case_off, ["tokenizer"], id="capitals"),
        pytest.param(
            lambda folder: changed_json(folder, "sentence_bert_config.json", max_seq_length=19),
            ["max_tokens"],
            id="limit",
        ),
        pytest.param(
            lambda folder: (folder / "config_sentence_transformers.json").write_text(
                json.dumps({"prompts": {"query": "q: "}, "default_prompt_name": None})
            ),
            ["prompts"],
            id="prompt",
        ),
        pytest.param(
            lambda folder: changed_json(
                folder, "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True
            ),
            ["graph", "pooling"],
            id="pooling",
        ),
    ],
)
def test_what_changes_a_vector_changes_the_identifier_and_is_named(
    tiny_checkpoint: Path,
    tiny_artifact: Path,
    change: Callable[[Path], None],
    components: list[str],
    tmp_path: Path,
) -> None:
    diff = diff_spaces(read_space(tiny_artifact), read_space(exported(tiny_checkpoint, change, tmp_path)))
    assert not diff.equal
    assert [one.component for one in diff.differences] == components


def test_precisions_with_a_stated_bound_are_one_space_and_a_quantization_is_another(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = export(str(tiny_checkpoint), tmp_path / "a", precisions=("fp32", "fp16"), verify=False).path
    assert read_space(path, "cpu-fp32") == read_space(path, "cpu-fp16")
    quantize(path, tmp_path / "half", "fp16")
    assert read_space(path) == read_space(tmp_path / "half")
    quantize(path, tmp_path / "q", "w8")
    diff = diff_spaces(read_space(path), read_space(tmp_path / "q"))
    assert [one.component for one in diff.differences] == ["precision"]


def test_the_identifier_of_a_known_model_stays(minilm_artifact: Path) -> None:
    space = read_space(minilm_artifact)
    assert space.id == IDENTIFIER_OF_MINILM, "the vectors are the same, so the identifier must be"


def test_the_tokenizer_s_digest_ignores_keys_that_change_no_id(tmp_path: Path, tiny_artifact: Path) -> None:
    content = json.loads((tiny_artifact / "tokenizer.json").read_text())
    digest = hash_tokenizer(tiny_artifact / "tokenizer.json")
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content | {"version": "9", "padding": None, "new": None}, indent=3))
    assert hash_tokenizer(file) == digest
    content["model"]["vocab"]["new"] = 9999
    file.write_text(json.dumps(content))
    assert hash_tokenizer(file) != digest


def test_an_artifact_without_digests_of_its_content_is_named_by_its_files(tiny_artifact: Path, tmp_path: Path) -> None:
    """Artifacts from before `Manifest.content` still load; a comparison says why they differ from a new export."""
    old = tmp_path / "old"
    shutil.copytree(tiny_artifact, old)
    manifest = json.loads((old / "fletcher.json").read_text())
    del manifest["content"], manifest["checksum"]
    (old / "fletcher.json").write_text(json.dumps(manifest))
    with Encoder.load(old, provider="mlas") as encoder:
        assert encoder.info.space == read_space(old)
    assert read_space(old).weights == f"file {manifest['files']['weights.fp32.safetensors']['sha256']}"
    diff = diff_spaces(read_space(old), read_space(tiny_artifact))
    assert [one.component for one in diff.differences] == ["weights", "graph", "tokenizer"]
    assert "Export it again" in diff.note
    assert not diff_spaces(read_space(old), read_space(old)).note


def test_a_saved_answer_that_was_changed_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    space = read_space(tiny_artifact)
    saved = tmp_path / "space.json"
    saved.write_bytes(msgspec.json.encode({"space": space.id, "parts": space, "canary": {}}))
    assert read_space(saved) == space
    changed = msgspec.structs.replace(space, max_tokens=1)
    saved.write_bytes(msgspec.json.encode({"space": space.id, "parts": changed}))
    with pytest.raises(ArtifactError, match="it was changed"):
        read_space(saved)
    saved.write_text("{}")
    with pytest.raises(ArtifactError, match="neither an artifact nor a saved answer"):
        read_space(saved)


def test_the_export_records_how_far_a_batch_moves_the_canary(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    canary = read_canary(artifact.canary_file).encodings
    with open_session(artifact, artifact.variant(), provider="mlas") as session:
        alone = np.concatenate([session.run(canary.select(np.array([row]))) for row in range(len(canary))])
    recorded = artifact.variant().measured["batch_max_abs"]
    assert recorded == pytest.approx(float(np.abs(alone - read_canary(artifact.canary_file).vectors).max()), abs=1e-6)
