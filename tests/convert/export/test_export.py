"""Export end to end: manifest of the artifact, precision of the weights, and limits of the options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.processors import TemplateProcessing

from fletcher import Encoder
from fletcher.convert.export import export as module
from fletcher.convert.export.card import model_name
from fletcher.convert.export.export import ExportOptions, export
from fletcher.convert.export.own_canary import own_canary
from fletcher.convert.texts import SENTENCES
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import Canary, read_canary
from fletcher.runtime.errors import CanaryError, CardError, CheckpointError, FletcherError, InputError
from fletcher.runtime.origin.zoo import shorten_canary

from ..tiny import HIDDEN, MAX_TOKENS, save_bert, save_modules

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users
TEXTS = ["", "bread", *SENTENCES[:5]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    save_bert(folder)
    return folder


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


def embed(path: Path) -> NDArray[np.float32]:
    with Encoder.load(path, workers=1) as encoder:
        return encoder.embed(TEXTS).vectors


def mean_of_huggingface(folder: Path) -> NDArray[np.float32]:
    """Return the mean over all tokens of HuggingFace's model in float32, computed step by step."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rows = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]])
        with torch.no_grad():
            rows.append(model(input_ids=ids).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_give_huggingfaces_vectors(checkpoint: Path, dtype: torch.dtype) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in weights.items()}, checkpoint / "model.safetensors")
    export(str(checkpoint), checkpoint.parent / "a", pooling="mean", max_tokens=MAX_TOKENS)
    np.testing.assert_allclose(embed(checkpoint.parent / "a"), mean_of_huggingface(checkpoint), atol=1e-5)


def test_shards_give_the_same_artifact(tiny: Path, tmp_path: Path) -> None:
    sharded = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    (sharded / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(tiny).save_pretrained(sharded, max_shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    digests = {
        export(str(folder), tmp_path / name, pooling="cls", max_tokens=MAX_TOKENS).digest
        for folder, name in ((tiny, "one"), (sharded, "many"))
    }
    assert len(digests) == 1


def test_a_task_head_and_old_names_change_nothing(tiny: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    weights = load_file(tiny / "model.safetensors")
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    old["cls.predictions.bias"] = torch.ones(3)
    save_file(old, renamed / "model.safetensors")
    for folder, name in ((tiny, "one"), (renamed, "other")):
        export(str(folder), tmp_path / name, pooling="mean", max_tokens=MAX_TOKENS)
    assert np.array_equal(embed(tmp_path / "one"), embed(tmp_path / "other"))


def test_the_manifest_records_the_sources(tiny: Path, tmp_path: Path) -> None:
    exported = export(str(tiny), tmp_path / "a", pooling="mean", max_tokens=9)
    artifact = Artifact.open(tmp_path / "a")
    artifact.check_files()
    manifest = artifact.manifest
    assert manifest.origin.source == str(tiny.resolve()) and "model.safetensors" in manifest.origin.sha256
    assert manifest.status == exported.status == "self-made"
    assert manifest.card.dimension == exported.dimension == HIDDEN and manifest.card.max_tokens == 9
    assert [v.name for v in manifest.variants] == ["cpu-fp32"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == sorted([*manifest.files, "fletcher.json"])
    assert exported.size == sum((tmp_path / "a" / name).stat().st_size for name in manifest.files)
    assert read_canary(artifact.canary_file).encodings.lengths.max() <= 9


def test_the_zoos_minilm_has_the_published_canary(minilm_artifact: Path) -> None:
    manifest = Artifact.open(minilm_artifact).manifest
    assert manifest.status == "published" and manifest.card.name == "all-MiniLM-L6-v2"
    assert "HuggingFace float32" in read_canary(minilm_artifact / "canary.safetensors").origin


def test_a_shorter_minilm_keeps_the_part_of_the_canary_that_fits(minilm_checkpoint: Path, tmp_path: Path) -> None:
    """`minilm_checkpoint` is the first parameter, so that the zoo's files are in the cache."""
    exported = export("all-MiniLM-L6-v2", tmp_path / "a", max_tokens=40)
    canary = read_canary(tmp_path / "a" / "canary.safetensors")
    assert exported.status == "published" and len(canary.texts) > 0 and canary.encodings.lengths.max() < 40
    with pytest.raises(InputError, match="--max-tokens 257 exceeds the 256"):
        export("all-MiniLM-L6-v2", tmp_path / "b", max_tokens=257)
    with pytest.raises(InputError, match="--pooling cls contradicts the card of all-MiniLM-L6-v2, which has mean"):
        export("all-MiniLM-L6-v2", tmp_path / "b", pooling="cls")
    with pytest.raises(InputError, match="--max-tokens 2 leaves no text of the canary"):
        export("all-MiniLM-L6-v2", tmp_path / "b", max_tokens=2)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:org/some-model@" + "0" * 40, "some-model"),
        ("pypi:dist-one==0.1,dist-two==0.1", "dist-one"),
        ("/models/My model (v2)", "My-model-v2"),
        ("/models/日本語", "model"),
        ("/models/.hidden_", "hidden"),
    ],
)
def test_every_source_gives_a_valid_card_name(source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: True)  # a source is a folder if the folder exists
    assert model_name(source) == name


def test_a_folder_of_any_name_can_be_converted(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "ein Modell: ü"))
    path = tmp_path / "das Ergebnis ü 日本"
    exported = export(str(folder), path, pooling="mean", max_tokens=8)
    assert exported.model == "ein-Modell"
    assert embed(path).shape == (len(TEXTS), HIDDEN)


def test_without_special_tokens_an_empty_text_is_refused_and_the_others_are_embedded(checkpoint: Path) -> None:
    file = checkpoint / "tokenizer.json"
    tokenizer = HuggingFaceTokenizer.from_file(str(file))
    tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save(str(file))
    (checkpoint / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    export(str(checkpoint), checkpoint.parent / "a", pooling="mean", max_tokens=8)
    with Encoder.load(checkpoint.parent / "a", workers=1) as encoder:
        assert encoder.embed(["a b"]).tokens.tolist() == [2]
        with pytest.raises(InputError, match="text 1 has no token"):
            encoder.embed(["a", " ", "b"])


def test_an_artifact_that_fails_its_canary_is_removed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: object) -> object:
        canary = own_canary(*args)  # type: ignore[arg-type]
        canary.vectors[0] += 0.1
        return canary

    monkeypatch.setattr(module, "own_canary", other)
    with pytest.raises(CanaryError, match="does not reproduce its canary"):
        export(str(tiny), tmp_path / "a", pooling="mean", max_tokens=8)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_gives_other_ids_than_the_published_canary_is_refused(
    minilm_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(path: Path, card: ModelCard) -> Canary:
        canary = shorten_canary(path, card)
        return replace(canary, encodings=replace(canary.encodings, ids=canary.encodings.ids + 1))

    monkeypatch.setattr(module, "shorten_canary", shifted)
    with pytest.raises(CanaryError, match="gives other ids than the canary of all-MiniLM-L6-v2"):
        export("all-MiniLM-L6-v2", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_options_are_a_struct_or_keywords_and_are_checked_on_creation(tiny: Path, tmp_path: Path) -> None:
    options = ExportOptions(pooling="mean", max_tokens=8)
    assert export(str(tiny), tmp_path / "struct", options).max_tokens == 8
    assert export(str(tiny), tmp_path / "both", options, max_tokens=7).max_tokens == 7
    unknown: Any = "mystery"
    with pytest.raises(InputError, match="--pooling mystery is unknown: choose from cls, mean"):
        ExportOptions(pooling=unknown)
    with pytest.raises(InputError, match="--head mystery is unknown: choose from embedding"):
        ExportOptions(head=unknown)
    with pytest.raises(InputError, match="--exporter mystery is unknown: choose from fletcher, optimum"):
        export("no such source", tmp_path / "a", exporter=unknown)
    with pytest.raises(InputError, match="--max-tokens 0"):
        ExportOptions(max_tokens=0)


def test_unknown_targets_and_precisions_name_the_known_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target 'abacus' is unknown: choose from cpu"):
        export(str(tiny), tmp_path / "a", targets=["abacus"], pooling="mean")
    with pytest.raises(InputError, match="precision 'fp1' is unknown: choose from fp32"):
        export(str(tiny), tmp_path / "a", precisions=["fp1"], pooling="mean")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model_type": "mystery"}, FletcherError, "mystery"),
        ({"mystery_scaling": 2}, CheckpointError, "does not know for this family: mystery_scaling"),
        ({"hidden_act": "mish"}, CheckpointError, "activation 'mish'"),
        ({"num_attention_heads": 5}, CheckpointError, "hidden_size 32 is not a multiple"),
        ({"num_hidden_layers": 3}, CheckpointError, r"lacks the tensor .*layer\.2"),
        ({"num_hidden_layers": 1}, CheckpointError, r"does not use: encoder\.layer\.1"),
        ({"vocab_size": 7}, CheckpointError, "word_embeddings.weight has shape"),
        ({"is_decoder": True}, CheckpointError, "is_decoder"),
    ],
)
def test_configurations_that_are_not_understood_are_refused(
    checkpoint: Path, changes: dict[str, object], kind: type[FletcherError], message: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(kind, match=message):
        export(str(checkpoint), checkpoint.parent / "a", pooling="mean", max_tokens=8)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_pooling_must_be_given_without_contradiction(checkpoint: Path) -> None:
    path = checkpoint.parent / "a"
    with pytest.raises(CardError, match="choose it with --pooling"):
        export(str(checkpoint), path, max_tokens=8)
    with pytest.raises(CardError, match=r"--max-tokens 65: .* has positions for 1 to 64 tokens"):
        export(str(checkpoint), path, pooling="mean", max_tokens=65)
    save_modules(checkpoint)
    with pytest.raises(CardError, match=r"--pooling cls contradicts .*, which has mean"):
        export(str(checkpoint), path, pooling="cls")


PEAK = """
import re, sys
import onnxruntime
from fletcher.convert.export.export import export
from fletcher.model_zoo.card import ModelCard

def peak():  # not ru_maxrss, which a process inherits from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

imported = peak()
export(sys.argv[1], sys.argv[2], pooling="mean", max_tokens=64)
print(imported, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_export_needs_little_more_memory_than_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    """The peak beyond the memory of the imports is at most 1.3 times the checkpoint; loading the result maps it once more."""
    big = Path(shutil.copytree(tiny, tmp_path / "big"))
    config = transformers.BertConfig.from_pretrained(tiny)
    config.update({"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 6})
    config.update({"vocab_size": 30522})
    transformers.BertModel(config).save_pretrained(big)
    size = (big / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", PEAK, str(big), str(tmp_path / "a")]
    imported, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert size > 80 << 20
    assert 0.5 * size < (peak - imported) * 1024 <= 1.3 * size
