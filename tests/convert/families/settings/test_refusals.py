"""Checkpoints that cannot be converted without guessing: each is refused, and the message names the cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.activations import ACT2FN

from fletcher.convert.export.export import export
from fletcher.convert.families import FAMILIES
from fletcher.convert.graph.activations import AUTHORED
from fletcher.runtime.errors import CheckpointError, FletcherError

from ...verify.parity import BERT_TOKENS, ROBERTA_TOKENS, load, make_card, randomize, save_checkpoint
from ..tiny import DISTILBERT_SIZES, POSITIONS, SIZES, Tensors, edit_config, edit_tensors

NARROW = SIZES | {"embedding_size": 16}

MODELS: dict[str, Callable[[], Any]] = {
    "albert": lambda: transformers.AlbertModel(transformers.AlbertConfig(**NARROW)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES)),
    "camembert": lambda: transformers.CamembertModel(transformers.CamembertConfig(**SIZES)),
    "distilbert": lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**DISTILBERT_SIZES)),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**NARROW)),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZES)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZES)),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZES)),
}
OFFSET = ("camembert", "mpnet", "roberta", "xlm-roberta")


@pytest.fixture(params=sorted(MODELS))
def family(request: pytest.FixtureRequest) -> str:
    """Name of each family."""
    return str(request.param)


@pytest.fixture
def checkpoint(family: str, tmp_path: Path) -> Path:
    """Valid checkpoint of the family, which a test damages."""
    tokens = ROBERTA_TOKENS if family in OFFSET else BERT_TOKENS
    folder = save_checkpoint(randomize(MODELS[family]()), tmp_path / "checkpoint", tokens)
    _load(folder)
    return folder


def _load(folder: Path) -> None:
    load(folder, make_card(folder, SIZES["hidden_size"], 8)).close()


def _refused(folder: Path, *words: str) -> None:
    """Check that loading fails and that the message contains each of the words."""
    with pytest.raises(CheckpointError) as caught:
        _load(folder)
    for word in words:
        assert word in str(caught.value)


def _first(tensors: Tensors, end: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(end))


def test_an_unknown_key(checkpoint: Path) -> None:
    edit_config(checkpoint, use_new_attention=True)
    _refused(checkpoint, "config.json", "use_new_attention")


def test_a_quantized_checkpoint(checkpoint: Path) -> None:
    edit_config(checkpoint, quantization_config={"quant_method": "bitsandbytes"})
    _refused(checkpoint, "quantization_config")


@pytest.mark.parametrize("activation", [*sorted(set(ACT2FN) - AUTHORED), "gelu_of_tomorrow", None, 3])
def test_an_activation_that_is_not_authored(tmp_path: Path, activation: object) -> None:
    folder = save_checkpoint(MODELS["bert"](), tmp_path)
    edit_config(folder, hidden_act=activation)
    _refused(folder, "hidden_act", repr(activation))


def test_an_activation_of_each_family(family: str, checkpoint: Path) -> None:
    key = "activation" if family == "distilbert" else "hidden_act"
    edit_config(checkpoint, **{key: "laplace"})
    _refused(checkpoint, f"config.json: {key}", "'laplace'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
    ],
)
def test_a_value_that_changes_the_mathematics(checkpoint: Path, key: str, value: object) -> None:
    edit_config(checkpoint, **{key: value})
    _refused(checkpoint, f"{key} is {value!r}")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "48", None])
def test_a_size_that_is_null(checkpoint: Path, value: object) -> None:
    edit_config(checkpoint, max_position_embeddings=value)
    _refused(checkpoint, f"max_position_embeddings is {value!r}")


def test_a_missing_size(checkpoint: Path) -> None:
    edit_config(checkpoint, "vocab_size")
    _refused(checkpoint, "lacks vocab_size")


def test_heads_that_do_not_divide_the_width(family: str, checkpoint: Path) -> None:
    hidden, heads = ("dim", "n_heads") if family == "distilbert" else ("hidden_size", "num_attention_heads")
    edit_config(checkpoint, **{heads: 5})
    _refused(checkpoint, f"{hidden} 48 is not a multiple of {heads} 5")


@pytest.mark.parametrize("part", ["word_embeddings.weight", "embeddings.LayerNorm.bias", "layer"])
def test_a_missing_tensor(checkpoint: Path, part: str) -> None:
    dropped = ""

    def drop(tensors: Tensors) -> Tensors:
        nonlocal dropped
        dropped = next(name for name in sorted(tensors, reverse=True) if part in name)
        return {name: tensor for name, tensor in tensors.items() if name != dropped}

    edit_tensors(checkpoint, drop)
    _refused(checkpoint, "lacks the tensor", dropped)


def test_a_surplus_tensor(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {"adapter.down.weight": np.ones((4, 48), np.float32)})
    _refused(checkpoint, "adapter.down.weight")


def test_a_surplus_layer(family: str, checkpoint: Path) -> None:
    if family == "albert":
        pytest.skip("its layers share their weights")
    edit_config(checkpoint, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 2})
    _refused(checkpoint, "layer.2.")


def test_a_wrong_shape(checkpoint: Path) -> None:
    name = ""

    def cut(tensors: Tensors) -> Tensors:
        nonlocal name
        name = _first(tensors, "position_embeddings.weight")
        return tensors | {name: np.ascontiguousarray(tensors[name][:-1])}

    edit_tensors(checkpoint, cut)
    _refused(checkpoint, name, f"({POSITIONS - 1}, ", f"({POSITIONS}, ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(checkpoint: Path, value: float) -> None:
    name = ""

    def spoil(tensors: Tensors) -> Tensors:
        nonlocal name
        name = _first(tensors, "word_embeddings.weight")
        tensors[name][7, 3] = value
        return tensors

    edit_tensors(checkpoint, spoil)
    _refused(checkpoint, name, "NaN or infinity")


def test_weights_that_are_integers(checkpoint: Path) -> None:
    name = ""

    def quantize(tensors: Tensors) -> Tensors:
        nonlocal name
        name = _first(tensors, "word_embeddings.weight")
        return tensors | {name: tensors[name].astype(np.int32)}

    edit_tensors(checkpoint, quantize)
    _refused(checkpoint, name, "int32")


def test_a_family_that_is_not_authored(tmp_path: Path) -> None:
    folder = save_checkpoint(MODELS["bert"](), tmp_path)
    edit_config(folder, model_type="xlnet")
    _refused(folder, "'xlnet'", *sorted(FAMILIES))


def test_a_padding_id_that_leaves_no_positions(tmp_path: Path) -> None:
    folder = save_checkpoint(MODELS["roberta"](), tmp_path, ROBERTA_TOKENS)
    for value in (POSITIONS - 1, None, -1):
        edit_config(folder, pad_token_id=value)
        _refused(folder, f"pad_token_id is {value!r}")


def test_buckets_that_transformers_would_not_use(tmp_path: Path) -> None:
    """`compute_position_bias` reads 32 buckets and ignores the file's number."""
    folder = save_checkpoint(MODELS["mpnet"](), tmp_path, ROBERTA_TOKENS)
    edit_config(folder, relative_attention_num_buckets=64)
    _refused(folder, "relative_attention_num_buckets is 64")


def _export(folder: Path, output: Path, max_tokens: int) -> None:
    export(str(folder), output, pooling="mean", max_tokens=max_tokens)


def test_more_tokens_than_positions(family: str, checkpoint: Path, tmp_path: Path) -> None:
    longest = POSITIONS - 2 if family in OFFSET else POSITIONS
    with pytest.raises(FletcherError, match=rf"max-tokens.*\b{longest}\b"):
        _export(checkpoint, tmp_path / "artifact", longest + 1)
    assert not (tmp_path / "artifact").exists()
    _export(checkpoint, tmp_path / "artifact", longest)


def test_a_tokenizer_larger_than_the_embeddings(tmp_path: Path) -> None:
    model = MODELS["bert"]()
    folder = save_checkpoint(model, tmp_path / "checkpoint")
    rows = SIZES["vocab_size"] - 1
    edit_config(folder, vocab_size=rows)
    edit_tensors(
        folder,
        lambda tensors: {
            name: np.ascontiguousarray(tensor[:rows]) if "word_embeddings" in name else tensor
            for name, tensor in tensors.items()
        },
    )
    with pytest.raises(CheckpointError, match=re.escape(f"ids up to {rows}, the embedding table {rows} rows")):
        _export(folder, tmp_path / "artifact", 8)


def test_tied_weights_stored_under_an_unrecorded_name(tmp_path: Path) -> None:
    model = randomize(transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES)))
    folder = save_checkpoint(model, tmp_path, ROBERTA_TOKENS)
    table = "roberta.embeddings.word_embeddings.weight"
    edit_tensors(folder, lambda tensors: {"lm_head.decoder.weight" if n == table else n: t for n, t in tensors.items()})
    _refused(folder, f"lacks the tensor {table}")


def test_weights_that_are_pickled(tmp_path: Path) -> None:
    folder = save_checkpoint(MODELS["bert"](), tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    _refused(folder, "lacks the tensor")
