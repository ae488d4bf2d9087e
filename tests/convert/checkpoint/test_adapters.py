"""LoRA adapters, merged into their base model: vectors of PEFT's formula, and of PEFT itself where it is installed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.tune.models.load import fetch_trainable
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.progress import SILENT
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import CheckpointError, SourceError

from ..tiny import HIDDEN, save_bert

TEXTS = ["a text", "another one that is longer", "x"]
PATHS = ("encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.value", "encoder.layer.1.output.dense")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    save_bert(folder)
    return folder


def save_adapter(base: Path, folder: Path, *, rank: int = 4, embeddings: bool = False, **config: Any) -> Path:
    """Write an adapter in PEFT's format."""
    weights, random = load_file(base / "model.safetensors"), torch.Generator().manual_seed(5)
    tensors = {}
    for path in PATHS:
        out, width = weights[f"{path}.weight"].shape
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, width, generator=random)
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out, rank, generator=random) / 8
    if embeddings:
        rows, width = weights["embeddings.word_embeddings.weight"].shape
        prefix = "base_model.model.embeddings.word_embeddings"
        tensors[f"{prefix}.lora_embedding_A"] = torch.randn(rank, rows, generator=random)
        tensors[f"{prefix}.lora_embedding_B"] = torch.randn(width, rank, generator=random) / 8
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return folder


def expected(base: Path, adapter: Path, scale: Callable[[str], float]) -> NDArray[np.float32]:
    """Return the mean-pooled vectors of the base model with `weight + scale · B · A` (tuners/lora/layer.py)."""
    model = transformers.AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    tensors, state = load_file(adapter / "adapter_model.safetensors"), model.state_dict()
    for name in [name for name in tensors if name.endswith(("lora_A.weight", "lora_embedding_A"))]:
        path = name.removeprefix("base_model.model.").partition(".lora_")[0]
        delta = tensors[name.replace("_A", "_B")] @ tensors[name] * scale(path)
        state[f"{path}.weight"] += delta.T if "embedding_A" in name else delta
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    return torch.stack(rows).numpy()


def vectors(source: Path, output: Path) -> NDArray[np.float32]:
    export(str(source), output, pooling="mean")
    with Encoder.load(output, workers=1) as encoder:
        return np.asarray(encoder.embed(TEXTS).vectors)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, lambda path: 8 / 4),
        ({"use_rslora": True, "embeddings": True}, lambda path: 8 / math.sqrt(4)),
        ({"alpha_pattern": {"self.query": 3}, "embeddings": True}, lambda path: (3 if "query" in path else 8) / 4),
    ],
)
def test_an_adapter_is_merged(
    base: Path, tmp_path: Path, config: dict[str, Any], scale: Callable[[str], float]
) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    computed = vectors(adapter, tmp_path / "artifact")
    np.testing.assert_allclose(computed, expected(base, adapter, scale), rtol=0, atol=2e-5)
    assert np.abs(computed - vectors(base, tmp_path / "base")).max() > 0.05
    origin = Artifact.open(tmp_path / "artifact").manifest.origin
    assert "adapter_model.safetensors" in origin.sha256
    assert any(name.endswith("/model.safetensors") for name in origin.sha256)


def test_an_adapter_of_a_head_s_model_and_a_pickled_one(base: Path, tmp_path: Path) -> None:
    """The base model's tensors have the prefix `bert.`, and the adapter's names do not."""
    other = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(other / "model.safetensors")
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, other / "model.safetensors")
    adapter = save_adapter(base, tmp_path / "adapter", base_model_name_or_path=str(other))
    right = expected(base, adapter, lambda path: 2)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    np.testing.assert_allclose(vectors(adapter, tmp_path / "artifact"), right, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; Fletcher merges LORA"),
        ({"use_dora": True}, "use_dora is True, which Fletcher does not merge"),
        ({"bias": "all"}, "bias is 'all', which Fletcher does not merge"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"modules_to_save": ["pooler"]}, r"modules_to_save is \['pooler'\]"),
        ({"surprise": 1}, "surprise is 1.*--ignore-key surprise"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changed the base weights"),
        ({"r": 3}, r"gives encoder\.layer\.0\.attention\.self\.query the rank 3, its tensors have 4"),
        ({"lora_alpha": "8"}, "lora_alpha of .* is '8'"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
    ],
)
def test_what_is_not_merged_is_refused_by_name(
    base: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    with pytest.raises(CheckpointError, match=message):
        export(str(adapter), tmp_path / "artifact", pooling="mean")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t | {"base_model.model.pooler.modules_to_save.weight": torch.ones(2)}, "not a matrix of a LoRA"),
        (lambda t: {n: v for n, v in t.items() if "lora_B" not in n}, "has lora_A; "),
        (
            lambda t: {n.replace("query", "queer"): v for n, v in t.items()},
            "self.queer.weight, and its base model has no",
        ),
        (lambda t: {n: v[:, :-1] if "lora_A" in n else v for n, v in t.items()}, "has the shapes"),
        (lambda t: {}, "has no tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    base: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    file = save_adapter(base, tmp_path / "adapter") / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in edit(load_file(file)).items()}, file)
    with pytest.raises(CheckpointError, match=message):
        export(str(tmp_path / "adapter"), tmp_path / "artifact", pooling="mean")


def test_a_base_model_or_weights_that_are_missing_are_named(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises((SourceError, CheckpointError), match="nowhere"):
        export(str(adapter), tmp_path / "artifact", pooling="mean")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        export(str(adapter), tmp_path / "artifact", pooling="mean")


def test_a_message_names_the_folder_of_the_adapter(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    with pytest.raises(CardError, match=f"{adapter} does not name a pooling mode"):
        export(str(adapter), tmp_path / "artifact")


def test_a_training_of_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"is a LoRA of PEFT, .*merge_and_unload"):
        fetch_trainable(str(adapter), SILENT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # from PEFT
def test_vectors_and_layers_are_compared_with_peft(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=list(PATHS))
    for name in ("tokenizer.json", "tokenizer_config.json"):  # sentence-transformers looks for them beside the adapter
        shutil.copy(base / name, adapter / name)
    export(str(adapter), tmp_path / "artifact", pooling="mean")
    verify(tmp_path / "artifact").raise_if_failed()
    verify_layers(tmp_path / "artifact").raise_if_failed()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # from PEFT
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": ["query", "value", "dense"]},
        {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["query", "word_embeddings"]},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["query", "key"],
            "rank_pattern": {"layer.1.attention.self.query": 2},
            "alpha_pattern": {"layer.1.attention.self.query": 5, "self.key": 3},
        },
    ],
)
def test_vectors_are_those_of_peft(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    model = transformers.AutoModel.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        rows = [adapted(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    right = torch.stack(rows).numpy()
    assert right.shape == (len(TEXTS), HIDDEN)
    np.testing.assert_allclose(vectors(tmp_path / "adapter", tmp_path / "artifact"), right, rtol=0, atol=2e-5)
