"""Tests of the harness: it must detect intentional damage."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertModel

from .parity import Parity, load, make_card, randomize

LONGEST = 24
Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Parity:
    config = BertConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=LONGEST,
    )
    return Parity.of(randomize(BertModel(config)), tmp_path_factory.mktemp("bert"), LONGEST)


def test_an_intact_checkpoint_passes(parity: Parity) -> None:
    parity.check()


def test_every_parameter_changes_the_vectors(parity: Parity) -> None:
    parity.check_sensitivity("key.bias", "pooler.dense.weight", "pooler.dense.bias")


def _zero_token_type(tensors: Tensors) -> None:
    tensors["embeddings.token_type_embeddings.weight"][0] = 0


def _swap_token_types(tensors: Tensors) -> None:
    tensors["embeddings.token_type_embeddings.weight"] = tensors["embeddings.token_type_embeddings.weight"][::-1].copy()


def _shift_positions(tensors: Tensors) -> None:
    tensors["embeddings.position_embeddings.weight"] = np.roll(tensors["embeddings.position_embeddings.weight"], 1, 0)


def _swap_layers(tensors: Tensors) -> None:
    first, second = (f"encoder.layer.{index}.intermediate.dense.weight" for index in (0, 1))
    tensors[first], tensors[second] = tensors[second], tensors[first]


def _transpose(tensors: Tensors) -> None:
    name = "encoder.layer.1.attention.self.query.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def _plain_norm(tensors: Tensors) -> None:
    tensors["encoder.layer.1.output.LayerNorm.weight"][:] = 1


def _nudge(tensors: Tensors) -> None:
    tensors["encoder.layer.0.output.dense.bias"][3] += 1e-3


@pytest.mark.parametrize(
    "damage",
    [_zero_token_type, _swap_token_types, _shift_positions, _swap_layers, _transpose, _plain_norm, _nudge],
)
def test_a_damaged_copy_fails(parity: Parity, tmp_path: Path, damage: Callable[[Tensors], None]) -> None:
    parity.model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    damaged = dataclasses.replace(parity, session=load(tmp_path, make_card(tmp_path, 32, LONGEST)))
    with pytest.raises(AssertionError, match="max abs"):
        damaged.check_batches()
    with pytest.raises(AssertionError, match="max abs"):
        damaged.check_padding()


def test_another_activation_or_epsilon_fails(parity: Parity, tmp_path: Path) -> None:
    for key, value in (("hidden_act", "gelu_new"), ("layer_norm_eps", 1e-4)):
        folder = tmp_path / key
        parity.model.save_pretrained(folder)
        config = (folder / "config.json").read_text()
        old = f'"{key}": ' + {"hidden_act": '"gelu"', "layer_norm_eps": "1e-12"}[key]
        assert old in config
        (folder / "config.json").write_text(config.replace(old, f'"{key}": ' + repr(value).replace("'", '"')))
        damaged = dataclasses.replace(parity, session=load(folder, make_card(folder, 32, LONGEST)))
        with pytest.raises(AssertionError, match="max abs"):
            damaged.check_batches()
        shutil.rmtree(folder)


class _Leaky:
    """Session whose vectors depend on the batch size, as with a quantizer that has one scale per batch."""

    provider = "leaky"

    def __init__(self, parity: Parity) -> None:
        self.inner = parity.session

    def run(self, batch: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        vectors = self.inner.run(batch)  # type: ignore[arg-type]
        return vectors + np.float32(5e-6 * len(vectors))


def test_dependence_on_the_batch_fails(parity: Parity) -> None:
    leaky = dataclasses.replace(parity, session=_Leaky(parity))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="alone"):
        leaky.check_company()


def test_ignoring_the_mask_fails(parity: Parity) -> None:
    """Attention to padding changes the reference, so that the comparison of padded batches detects it."""
    rows = parity.rows([3, 9])
    padded = [(*row, *[parity.tokens.pad] * (LONGEST - len(row))) for row in rows]
    assert np.abs(parity.huggingface(padded) - parity.fletcher(rows)).max() > 0.01
