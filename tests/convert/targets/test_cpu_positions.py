"""Positions inside attention: tables and buckets compared with torch and transformers, and the nodes that use them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import GteConfig, GteModel, ModernBertConfig, ModernBertModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from fletcher.convert.architecture import Rotary
from fletcher.convert.families.settings.values import frequencies
from fletcher.convert.targets.shared.positions import buckets, rotary_tables

from ..families.test_jina_bert import Jina
from ..verify.parity import Parity, randomize

LONGEST = 24
LAYERS = 4


@pytest.mark.parametrize("theta", [1000.0, 10_000.0, 160_000.0, 500_000.0])
@pytest.mark.parametrize("width", [16, 32, 64])
def test_rotary_tables_are_torchs_up_to_the_8192nd_position(theta: float, width: int) -> None:
    """Angles reach several thousands, so that an error in the last bit of a frequency changes the table by 1e-4."""
    pairs = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float) / width))
    angles = torch.outer(torch.arange(8192).float(), pairs)
    cosines, sines = rotary_tables(Rotary("rotary", frequencies(theta, width)), 8192)
    assert np.abs(cosines - angles.cos().numpy()).max() <= 1e-7
    assert np.abs(sines - angles.sin().numpy()).max() <= 1e-7


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 64), (8, 20), (64, 256)])
def test_buckets_of_all_distances_equal_those_of_transformers(num_buckets: int, max_distance: int) -> None:
    distances = np.arange(-1100, 1101)
    bucket: Any = MPNetEncoder.relative_position_bucket
    expected = bucket(torch.from_numpy(distances), num_buckets, max_distance)
    np.testing.assert_array_equal(buckets(distances, num_buckets, max_distance), expected.numpy())


def _modernbert(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": LONGEST,
        "local_attention": 2,
        "pad_token_id": 0,
        "attn_implementation": "eager",
    }
    return randomize(ModernBertModel(ModernBertConfig(**(fields | changes))))


def _graph(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "graph" / "cpu.onnx", load_external_data=False)


def test_layers_share_tables_and_biases(tmp_path: Path) -> None:
    """Two bases and one window give two pairs of tables and one bias, for any number of layers."""
    Parity.of(_modernbert(), tmp_path, LONGEST)
    model = _graph(tmp_path)
    assert {node.domain for node in model.graph.node} == {""}, "standard operators only"
    tables = {tensor.name for tensor in model.graph.initializer if tensor.name.startswith("rotary")}
    assert tables == {f"rotary.{kind}.{part}" for kind in ("global", "local") for part in ("cos", "sin")}
    assert Counter(node.op_type for node in model.graph.node)["RotaryEmbedding"] == 2 * LAYERS
    masked = Counter(node.input[3] for node in model.graph.node if node.op_type == "Attention")
    assert masked == {"": 2, "positions/bias.0": 2}


def test_padding_out_of_every_window_stays_finite(tmp_path: Path) -> None:
    """A padded row far after a short text attends to no token: all tokens are outside its window, and padding is masked."""
    Parity.of(_modernbert(), tmp_path, LONGEST)
    model = _graph(tmp_path)
    constants = [tensor for tensor in model.graph.initializer if not tensor.external_data]
    assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in constants), "no -inf in a mask"
    contexts = [node.output[0] for node in model.graph.node if node.op_type == "Attention"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in contexts)
    path = tmp_path / "graph" / "seen.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.full(21, 7, np.int32), "offsets": np.array([0, 20, 21])}
    for value in session.run(None, feeds):
        assert np.isfinite(value).all()


def _jina(folder: Path, longest: int) -> Parity:
    model = Jina(8, max_position_embeddings=longest)
    model.longest = longest
    return model.parity(folder, 48, 60)


def _gte(folder: Path, longest: int) -> Parity:
    fields: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": longest,
        "attn_implementation": "eager",
    }
    return Parity.of(randomize(GteModel(GteConfig(**fields))), folder, longest)


def _window(folder: Path, longest: int) -> Parity:
    model = _modernbert(max_position_embeddings=longest, local_attention=128)
    return Parity.of(model, folder, longest)


@pytest.mark.parametrize("make", [_gte, _window, _jina], ids=["rotary", "windows", "alibi"])
def test_texts_of_the_full_length(tmp_path: Path, make: Callable[[Path, int], Parity]) -> None:
    parity = make(tmp_path, 1024)
    rows = parity.rows([1024, 3, 700])
    vectors, expected = parity.fletcher(rows), parity.huggingface(rows)
    assert np.abs(vectors - expected).max() <= 1e-5
    for row, vector in zip(rows, vectors, strict=True):
        assert np.abs(parity.fletcher([row])[0] - vector).max() <= 1e-6
