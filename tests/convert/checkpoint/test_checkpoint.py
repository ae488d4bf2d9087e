"""Weights of checkpoint folders, compared with the weights that torch reads, and errors for damaged files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.json_files import read_json
from fletcher.convert.checkpoint.tensors import TensorReader
from fletcher.convert.checkpoint.weights.files import INDEX, SINGLE
from fletcher.convert.checkpoint.weights.safetensors import read_header
from fletcher.runtime.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def raw(file: Path, header: Any, data: bytes = b"") -> Path:
    """Return the content of a safetensors file with the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(shape: list[Any], offsets: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_float_type_equal_torchs_in_float32(folder: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    exact = torch.randn(37, 5, generator=generator, dtype=torch.float64) * 10.0 ** torch.randint(-7, 4, (37, 1))
    tensors = {"odd": torch.zeros(3, dtype=torch.uint8), "w": exact.to(dtype), "b": exact[0].clone().to(dtype)}
    save_file(tensors, folder / SINGLE)
    reader = TensorReader(Checkpoint.open(folder), prefixes=())
    weight, vector = reader.take("w", (37, 5)), reader.take("b", (5,))
    assert np.array_equal(weight.load(), exact.to(dtype).to(torch.float32).numpy())
    assert np.array_equal(vector.load(), exact[0].to(dtype).to(torch.float32).numpy())
    assert weight.load().dtype == np.float32
    assert np.array_equal(reader.row("w", (37, 5), 3).load(), exact[3].to(dtype).to(torch.float32).numpy())


def test_a_linear_is_transposed_and_a_packed_tensor_is_split(folder: Path) -> None:
    weight, bias = torch.arange(24.0).reshape(6, 4), torch.arange(6.0)
    save_file({"l.weight": weight, "l.bias": bias}, folder / SINGLE)
    reader = TensorReader(Checkpoint.open(folder), prefixes=())
    linear = reader.linear("l", 4, 6)
    assert linear.bias is not None
    assert np.array_equal(linear.weight.load(), weight.T.numpy()) and np.array_equal(linear.bias.load(), bias.numpy())
    one, two = reader.linears("l", 4, {"one": 2, "two": 4})
    assert one.bias is not None and two.bias is not None
    assert np.array_equal(one.weight.load(), weight[:2].T.numpy())
    assert np.array_equal(two.weight.load(), weight[2:].T.numpy())
    assert np.array_equal(two.bias.load(), bias[2:].numpy()) and two.weight.shape == (4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_numbers_are_refused(folder: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(40, dtype=dtype)
    tensor[17] = value
    save_file({"w": tensor}, folder / SINGLE)
    weight = TensorReader(Checkpoint.open(folder), prefixes=()).take("w", (40,))
    with pytest.raises(CheckpointError, match="the tensor w holds NaN or infinity"):
        weight.load()


def test_finite_weights_whose_sum_overflows_are_accepted(folder: Path) -> None:
    save_file({"w": torch.full((40,), 3e38)}, folder / SINGLE)
    assert TensorReader(Checkpoint.open(folder), prefixes=()).take("w", (40,)).load()[7] == np.float32(3e38)


def test_weights_beyond_float32_are_refused(folder: Path) -> None:
    save_file({"w": torch.full((2,), 1e200, dtype=torch.float64)}, folder / SINGLE)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        TensorReader(Checkpoint.open(folder), prefixes=()).take("w", (2,)).load()


def test_missing_surplus_misshapen_and_integer_tensors_are_named(folder: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.ones(3, dtype=torch.int64), "c": torch.ones(1)}, folder / SINGLE)
    reader = TensorReader(Checkpoint.open(folder), prefixes=())
    with pytest.raises(CheckpointError, match=r"tensor a has shape \(2,\), config.json implies \(3,\)"):
        reader.take("a", (3,))
    with pytest.raises(CheckpointError, match=r"lacks the tensor missing of shape \(1,\)"):
        reader.take("missing", (1,))
    with pytest.raises(CheckpointError, match="element type int64, not a float type"):
        reader.take("b", (3,)).load()
    with pytest.raises(CheckpointError, match=r"'bert' of config\.json does not use: c"):
        reader.finish()
    reader.ignore("c")
    reader.finish()


# Shards -------------------------------------------------------------------------------------------------------------------


def shard(folder: Path, weight_map: Any) -> None:
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(3)}, folder / "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 20}, "weight_map": weight_map}))


def test_shards_are_read_together(folder: Path) -> None:
    shard(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    checkpoint = Checkpoint.open(folder)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"a": (2,), "b": (3,)}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "three.safetensors"}, r"lacks three\.safetensors"),
        ({"a": "../one.safetensors"}, "not a file beside it"),
        ({"a": 5}, "not a file beside it"),
        ([], "has no weight_map"),
        (None, "has no weight_map"),
    ],
)
def test_a_malformed_index_is_refused(folder: Path, weight_map: Any, message: str) -> None:
    shard(folder, weight_map)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def test_an_index_without_metadata_is_refused(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match="has no metadata, without which transformers fails"):
        Checkpoint.open(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shard(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, folder / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor a is in .*one.* and in .*two"):
        Checkpoint.open(folder)


def test_surplus_shards_and_tensors_of_another_version_are_refused(folder: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(3)}
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, (key, tensor) in zip(names, weights.items(), strict=True):
        save_file({key: tensor}, folder / name)
    index = {"metadata": {}, "weight_map": dict(zip(weights, names, strict=True))}
    (folder / INDEX).write_text(json.dumps(index))
    assert Checkpoint.open(folder).tensors.keys() == weights.keys()
    save_file({"b": torch.ones(3)}, folder / "model-00003-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"has model-00003-of-00003\.safetensors, which .* does not name"):
        Checkpoint.open(folder)
    (folder / "model-00003-of-00003.safetensors").unlink()
    save_file({"c": torch.ones(3)}, folder / names[1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors has the tensor b, and it has not"):
        Checkpoint.open(folder)


# Damage -------------------------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_refused_at_every_length(folder: Path) -> None:
    save_file({"w": torch.ones(100), "v": torch.ones(7)}, folder / SINGLE)
    content = (folder / SINGLE).read_bytes()
    for size in (0, 5, 8, 30, len(content) // 2, len(content) - 1):
        (folder / SINGLE).write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors.*[Ff]etch it again"):
            Checkpoint.open(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"no json",
        b"[" * 100_000,
        b'{"t": {"dtype": "F32"',
        b"\xff\xfe{}",
        [],
        {"t": 5},
        {"t": {"dtype": "F32", "shape": [2]}},
        entry([2], [0]),
        entry([2], [0, 4]),
        entry([2], [8, 0]),
        entry([2], [-8, 0]),
        entry([-1, -2], [0, 8]),
        entry([2.0], [0, 8]),
        entry(["2"], [0, 8]),
        entry([2**32, 2**32], [0, 0]),
        entry([2], [0, 8], "F8_E4M3"),
        entry([2], [0, 8], "nonsense"),
    ],
)
def test_a_malformed_header_is_refused(tmp_path: Path, header: Any) -> None:
    file = raw(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        list(read_header(file))


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="header should have 4611686018427387904 bytes"):
        list(read_header(file))


def test_empty_and_scalar_tensors_are_read(tmp_path: Path) -> None:
    save_file({"none": torch.zeros(0, 4), "one": torch.tensor(2.5)}, tmp_path / "x.safetensors")
    tensors = {tensor.name: tensor.read() for tensor in read_header(tmp_path / "x.safetensors")}
    assert tensors["none"].shape == (0, 4)
    assert tensors["one"].shape == () and float(tensors["one"]) == 2.5


def test_missing_weights_and_a_missing_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json: is it a HuggingFace checkpoint"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match=r"pickle without an end|cannot be read as a pickle"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": "\xff"}', b"[" * 100_000, b"5"])
def test_json_that_is_not_an_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
