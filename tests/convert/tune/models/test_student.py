"""Students with fewer layers, and checkpoints that cannot be trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from fletcher.convert.tune.models.load import convert_trainable, fetch_trainable, load_trainable, save_model
from fletcher.convert.tune.models.student import keep_layers, kept_layers, remove_dropout
from fletcher.model_zoo.progress import SILENT
from fletcher.runtime.errors import CheckpointError, InputError, SourceError


def test_layers_are_spread_and_end_with_the_last() -> None:
    assert kept_layers(6, 3) == (1, 3, 5)
    assert kept_layers(12, 4) == (2, 5, 8, 11)
    assert kept_layers(6, 4) == (0, 2, 3, 5)
    assert kept_layers(5, 1) == (4,)


def test_a_student_is_its_teacher_without_layers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    kept = keep_layers(model, 1)
    save_model(model, tmp_path / "student")
    loaded: Any = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert loaded[0].model.config.num_hidden_layers == 1
    # transformers' own model with the second layer alone is the reference.
    config = transformers.BertConfig.from_pretrained(tiny_checkpoint, num_hidden_layers=1)
    expected: Any = transformers.BertModel(config)
    expected.eval()
    state = transformers.BertModel.from_pretrained(tiny_checkpoint).state_dict()
    one = {
        name.replace(f"layer.{kept[0]}.", "layer.0."): value for name, value in state.items() if "layer.0." not in name
    }
    expected.load_state_dict(one)
    features = loaded.preprocess(["a text of some words"])
    with torch.no_grad():
        states = expected(**{name: features[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    pooled = states.mean(dim=1)[0].numpy()
    assert loaded.encode("a text of some words") == pytest.approx(pooled / np.linalg.norm(pooled), abs=1e-6)


def test_layers_that_cannot_be_removed(tiny_checkpoint: Path) -> None:
    model: Any = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    for count in (2, 3):
        with pytest.raises(InputError, match="the checkpoint has 2 layers"):
            keep_layers(model, count)
    model[0].model.encoder.layer = torch.nn.ModuleList([model[0].model.encoder.layer[0]])  # as if it were shared
    with pytest.raises(CheckpointError, match="share weights or depend on their place"):
        keep_layers(model, 1)


def test_without_dropout_training_computes_the_same(tiny_checkpoint: Path) -> None:
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    features = model.preprocess(["a text of some words"])
    model.train()
    with torch.no_grad():
        assert not torch.equal(*(model(dict(features))["sentence_embedding"] for _ in range(2)))
        remove_dropout(model)
        assert torch.equal(*(model(dict(features))["sentence_embedding"] for _ in range(2)))


def test_checkpoints_that_cannot_be_trained(tiny_artifact: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is an artifact, and a checkpoint is trained: give its checkpoint"):
        fetch_trainable(str(tiny_artifact), SILENT)
    quantized = tmp_path / "quantized"
    shutil.copytree(tiny_checkpoint, quantized)
    settings = json.loads((quantized / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (quantized / "config.json").write_text(json.dumps(settings))
    with pytest.raises(SourceError, match="the weights are quantized by gptq"):
        fetch_trainable(str(quantized), SILENT)
    static = tmp_path / "static"
    shutil.copytree(tiny_checkpoint, static)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    (static / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="is a static model"):
        fetch_trainable(str(static), SILENT)


def test_an_artifact_of_the_same_files_is_used_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source, folder = str(tiny_checkpoint), tmp_path / "base"
    checkout = fetch_trainable(source, SILENT)
    first = convert_trainable(source, checkout, folder, SILENT)
    times = (tmp_path / "base" / "fletcher.json").stat().st_mtime_ns
    again = convert_trainable(source, checkout, folder, SILENT)
    assert (again.artifact.digest, (tmp_path / "base" / "fletcher.json").stat().st_mtime_ns) == (
        first.artifact.digest,
        times,
    )
    assert load_trainable(again)[0].model.config._attn_implementation == "sdpa"
