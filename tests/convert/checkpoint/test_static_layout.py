"""Static embeddings: vectors of sentence-transformers' StaticEmbedding, which reads model2vec's files too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError, InputError, SourceError

from ..layers.sabotage import Patient
from ..tiny import save_bert

TEXTS = ["a text", "another text, much longer than the other one. " * 60, "x", "[CLS] [SEP] ünï ☃"]
WIDTH = 24


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)  # sentence-transformers applies it, model2vec has none
    tokenizer.no_truncation()
    return tokenizer


def embed(source: Path, output: Path, **options: Any) -> NDArray[np.float32]:
    exported = export(str(source), output)
    assert exported.max_tokens == 1 << 20
    with Encoder.load(output, workers=1) as encoder:
        result = encoder.embed(TEXTS, **options)
    assert not result.dropped.any()
    return np.asarray(result.vectors)


@pytest.mark.parametrize(
    "others",
    [[], [Normalize], [lambda: Dense(WIDTH, 8, use_residual=True), Normalize]],
    ids=["alone", "normalized", "dense"],
)
def test_a_static_embedding_of_sentence_transformers(
    tokenizer: Tokenizer, tmp_path: Path, others: Sequence[Any]
) -> None:
    torch.manual_seed(3)
    table = StaticEmbedding(tokenizer, embedding_dim=WIDTH)
    model = SentenceTransformer(modules=[table, *(other() for other in others)], device="cpu")
    model.prompts = {"query": "search: ", "document": ""}
    model.save(str(tmp_path / "model"))
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(
        embed(tmp_path / "model", tmp_path / "artifact", input_type="query"),
        expected.encode(TEXTS, prompt_name="query"),
        rtol=0,
        atol=2e-5,
    )


def test_the_truncation_of_the_tokenizers_file_applies(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)], device="cpu")
    model.save(str(tmp_path / "model"))
    file = next((tmp_path / "model").rglob("tokenizer.json"))
    settings = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": settings}))
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS)
    assert export(str(tmp_path / "model"), tmp_path / "artifact").max_tokens == 4
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        result = encoder.embed(TEXTS)
    np.testing.assert_allclose(result.vectors, expected, rtol=0, atol=2e-5)
    assert result.dropped[1] > 0
    settings["direction"] = "Left"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": settings}))
    with pytest.raises(CheckpointError, match="truncation cuts the beginning"):
        export(str(tmp_path / "model"), tmp_path / "artifact")


def test_a_pickled_table_in_a_folder_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)], device="cpu")
    model.save(str(tmp_path / "model"))
    place = tmp_path / "model" / "0_StaticEmbedding"
    place.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        if (tmp_path / "model" / name).is_file():
            (tmp_path / "model" / name).rename(place / name)
    entries = json.loads((tmp_path / "model" / "modules.json").read_text())
    entries[0]["path"] = "0_StaticEmbedding"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(entries))
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embed(tmp_path / "model", tmp_path / "artifact"), expected, rtol=0, atol=2e-5)


def save_model2vec(folder: Path, tokenizer: Tokenizer, *, quantized: bool, **config: Any) -> Path:
    """Write a folder as model2vec does (`save_pretrained` in model2vec/persistence)."""
    folder.mkdir()
    rows = tokenizer.get_vocab_size()
    torch.manual_seed(5)
    tensors = {"embeddings": torch.randn(rows // 3 if quantized else rows, WIDTH).half()}
    if quantized:
        tensors |= {"mapping": torch.randint(0, rows // 3, (rows,)), "weights": torch.rand(rows, dtype=torch.float64)}
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": WIDTH, "seq_length": 1000000}
    (folder / "config.json").write_text(json.dumps({"apply_pca": 256, "apply_zipf": True} | settings | config))
    return folder


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_folder_of_model2vec(tokenizer: Tokenizer, tmp_path: Path, quantized: bool, normalize: bool) -> None:
    folder = save_model2vec(tmp_path / "model", tokenizer, quantized=quantized, normalize=normalize)
    modules: list[Any] = [StaticEmbedding.load(str(folder)), *([Normalize()] if normalize else [])]
    expected = SentenceTransformer(modules=modules, device="cpu").float().encode(TEXTS)
    np.testing.assert_allclose(embed(folder, tmp_path / "artifact"), expected, rtol=0, atol=2e-5)


def test_what_is_missing_or_unknown_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = save_model2vec(tmp_path / "a", tokenizer, quantized=False, surprise=1)
    with pytest.raises(CheckpointError, match="keys that Fletcher does not know: surprise"):
        export(str(folder), tmp_path / "artifact")
    folder = save_model2vec(tmp_path / "b", tokenizer, quantized=False)
    save_file({"other": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no table of word vectors"):
        export(str(folder), tmp_path / "artifact")
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)], device="cpu")
    model.save(str(tmp_path / "c"))
    next((tmp_path / "c").rglob("tokenizer.json")).unlink()
    with pytest.raises(SourceError, match=r"has no tokenizer\.json, which static embeddings need"):
        export(str(tmp_path / "c"), tmp_path / "artifact")


def test_static_embeddings_are_verified(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(3)
    modules: list[Any] = [StaticEmbedding(tokenizer, embedding_dim=WIDTH), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts={"query": "search: "}).save(str(tmp_path / "model"))
    export(str(tmp_path / "model"), tmp_path / "artifact")
    damaged = Patient.copy_of(tmp_path / "artifact", tmp_path / "damaged")
    report = verify(tmp_path / "artifact")
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} >= {"raw", "query", "document"}
    with pytest.raises(InputError, match="have no layers"):
        verify_layers(tmp_path / "artifact")
    table = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: -tensor for name, tensor in table.items()}, tmp_path / "model" / "model.safetensors")
    assert verify(damaged.path, str(tmp_path / "model")).verdict == "failed"
