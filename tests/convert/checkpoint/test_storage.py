"""Storage of a checkpoint (shards, tied weights, half precision) does not change the vectors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM, RobertaModel

from fletcher.convert.export.export import export
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError

from ..families.tiny import POSITIONS, SIZES, rename_tensors
from ..verify.parity import (
    BERT_TOKENS,
    ROBERTA_TOKENS,
    Parity,
    SpecialTokens,
    load,
    make_card,
    randomize,
    save_checkpoint,
)

HIDDEN = SIZES["hidden_size"]


def _reload(parity: Parity, folder: Path) -> Parity:
    return dataclasses.replace(parity, session=load(folder, make_card(folder, HIDDEN, POSITIONS)))


def test_shards(tmp_path: Path) -> None:
    model = randomize(BertModel(BertConfig(**SIZES)))
    reference = Parity.of(model, tmp_path / "whole", POSITIONS)
    folder = save_checkpoint(model, tmp_path / "shards", max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    _reload(reference, folder).check_batches()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("shards", [False, True])
def test_pickles(tmp_path: Path, zipped: bool, shards: bool) -> None:
    model = randomize(BertModel(BertConfig(**SIZES)))
    reference = Parity.of(model, tmp_path / "whole", POSITIONS)
    folder = save_checkpoint(model, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    tensors = model.state_dict()
    parts = {"pytorch_model.bin": list(tensors)}
    if shards:
        parts = {f"pytorch_model-0000{n + 1}-of-00002.bin": list(tensors)[n::2] for n in range(2)}
        places = {name: file for file, names in parts.items() for name in names}
        index = {"metadata": {}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for file, names in parts.items():
        part = {name: tensors[name] for name in names}
        torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
    _reload(reference, folder).check_batches()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "0.auto_model.", "module.bert."])
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    model = randomize(BertModel(BertConfig(**SIZES)))
    reference = Parity.of(model, tmp_path / "whole", POSITIONS)
    folder = save_checkpoint(model, tmp_path / "wrapped")
    rename_tensors(folder, lambda name: prefix + name)
    _reload(reference, folder).check_batches()


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = save_checkpoint(BertModel(BertConfig(**SIZES)), tmp_path, max_shard_size="40KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load(folder, make_card(folder, HIDDEN, POSITIONS))


def test_a_shard_outside_the_folder(tmp_path: Path) -> None:
    folder = save_checkpoint(BertModel(BertConfig(**SIZES)), tmp_path / "inside", max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    content["weight_map"][name] = "../outside.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="outside"):
        load(folder, make_card(folder, HIDDEN, POSITIONS))


def test_tied_weights_stored_under_their_other_name(tmp_path: Path) -> None:
    """safetensors keeps one name of a shared tensor, here the head's, and records the embedding's name in the metadata."""
    model = randomize(RobertaForMaskedLM(RobertaConfig(**SIZES)))
    reference = Parity.of(
        model, tmp_path / "whole", POSITIONS - 2, ROBERTA_TOKENS, absolute=False, encoder=model.roberta
    )
    folder = save_checkpoint(model, tmp_path / "tied", ROBERTA_TOKENS)
    save_model(model, str(folder / "model.safetensors"))
    assert (
        b'"roberta.embeddings.word_embeddings.weight":"lm_head.decoder.weight"'
        in ((folder / "model.safetensors").read_bytes()[:10_000])
    )
    _reload(reference, folder).check_batches()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    """Weights are widened before any computation, as transformers does with `dtype=float32`."""
    save_checkpoint(randomize(BertModel(BertConfig(**SIZES))).to(dtype), tmp_path)
    widened = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    session = load(tmp_path, make_card(tmp_path, HIDDEN, POSITIONS))
    Parity(widened, session, BERT_TOKENS, SIZES["vocab_size"], POSITIONS).check_batches()


@pytest.mark.parametrize(
    ("kind", "config", "tokens"),
    [(BertModel, BertConfig, BERT_TOKENS), (RobertaModel, RobertaConfig, ROBERTA_TOKENS)],
    ids=["bert", "roberta"],
)
def test_from_a_folder_to_vectors(tmp_path: Path, kind: Any, config: Any, tokens: SpecialTokens) -> None:
    """Compare `export` and `Encoder.embed`, with the tokenizer, with transformers and ids that the test computes."""
    model = randomize(kind(config(**SIZES)))
    folder = save_checkpoint(model, tmp_path / "checkpoint", tokens)
    export(str(folder), tmp_path / "artifact", pooling="mean", max_tokens=9)
    words = [[3, 7, 7], [], [50], list(range(20))]
    first = len(tokens.names)
    expected = []
    for numbers in words:
        ids = [tokens.start, *(first + number for number in numbers[:7]), tokens.end]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state
        expected.append(hidden[0].mean(0).numpy())
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        result = encoder.embed([" ".join(f"w{number}" for number in numbers) for numbers in words])
    normalized = np.linalg.norm(result.vectors, axis=1)
    assert not np.allclose(normalized, 1, atol=1e-3)  # no setting requests it
    np.testing.assert_allclose(result.vectors, np.stack(expected), rtol=0, atol=1e-5)
    assert result.dropped.tolist() == [0, 0, 0, 13]
