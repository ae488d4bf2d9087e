"""Tensors of torch's files, compared with the tensors that torch saved, and pickles that hold anything else."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fletcher.convert.checkpoint.weights.torch_file import read_torch_file
from fletcher.runtime.errors import CheckpointError


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    whole = torch.randn(7, 6)
    return collections.OrderedDict(
        {
            "float": whole,
            "tied": whole,
            "transposed": whole.T,
            "columns": whole[:, 2:5],
            "rows": whole[3:],
            "every second": whole[::2, ::3],
            "half": torch.randn(3).half(),
            "bf16": torch.randn(2, 2).bfloat16(),
            "double": torch.randn(1, 5).double(),
            "ids": torch.arange(9),
            "flags": torch.tensor([True, False]),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 4),
            "parameter": torch.ones(2, requires_grad=True),
        }
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_both_formats_are_those_that_torch_saved(tmp_path: Path, zipped: bool) -> None:
    saved = tensors()
    torch.save(saved, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    found = {tensor.name: tensor for tensor in read_torch_file(tmp_path / "x.bin")}
    assert list(found) == list(saved)
    for name, tensor in saved.items():
        values = found[name].read()
        assert values.shape == tuple(tensor.shape), name
        wide = tensor.detach().to(torch.float64).numpy()
        assert np.array_equal(values.astype(np.float64), wide), name
        parts = [part.astype(np.float64) for part in found[name].parts(4)]
        assert np.array_equal(np.concatenate([*parts, np.zeros(0)]), wide.reshape(-1)), name


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_a_module_is_read(tmp_path: Path, zipped: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)  # has _metadata
    found = {tensor.name: tensor.read() for tensor in read_torch_file(tmp_path / "x.bin")}
    assert found.keys() == module.state_dict().keys()
    assert np.array_equal(found["0.weight"], module.state_dict()["0.weight"].numpy())


# Hostile and damaged files --------------------------------------------------------------------------------------------


class Calls:
    """Object that a pickle makes by a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def archive(file: Path, content: bytes, **entries: bytes) -> Path:
    """Write a zip archive in the layout of torch.save around a pickle."""
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("model/data.pkl", content)
        target.writestr("model/byteorder", b"little")
        for name, data in entries.items():
            target.writestr(f"model/{name}", data)
    return file


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_pickle_runs_and_its_name_is_in_the_message(tmp_path: Path, protocol: int, zipped: bool) -> None:
    ran = tmp_path / "ran"
    hostile = {
        "w": torch.ones(2).numpy().tolist(),
        "x": Calls(os.system, f"touch {ran}"),
    }
    content = pickle.dumps(hostile, protocol=protocol)
    file = archive(tmp_path / "x.bin", content) if zipped else tmp_path / "x.bin"
    if not zipped:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"(posix\.system|neither a zip|opcode)") as caught:
        list(read_torch_file(file))
    assert not ran.exists()
    if zipped and protocol >= 2:  # older protocols have other opcodes
        assert "posix.system" in str(caught.value)
    pickle.loads(content)
    assert ran.exists()  # the same bytes run the command in Python's own reader


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", r"builtins\.eval"),
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", r"builtins\.exec"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "BUILD"),
        (b"(i__main__\nX\n.", "opcode INST"),
        (b"ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"ccollections\nOrderedDict\nccollections\nOrderedDict\nR.", "calls what is not part"),
        (b"ccollections\nOrderedDict\n(](K\x01K\x02tatR.", "cannot be read as a pickle of tensors"),
        (b"K\x01K\x02R.", "calls what is not part"),
        (b"}(K\x01K\x02t.", "cannot be read|where tensors"),
        (b"}((K\x01tK\x02u.", "neither text nor number"),
        (b"]K\x01a.", "list, where tensors by name were expected"),
        (b"}X\x01\x00\x00\x00wK\x05s.", "holds more than tensors: 'w' is a int"),
        (b"ctorch\nFloatStorage\n.", "where tensors by name were expected"),
        (b"}", "cannot be read as a pickle|without an end"),
        (b".", "cannot be read as a pickle"),
        (b"h\x05.", "cannot be read as a pickle"),
        (b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI-1\ntQ.", "a storage that Fletcher does not know"),
        (b"(S'storage'\nS'x'\nS'0'\nS'cpu'\nI1\ntQ.", "a storage that Fletcher does not know"),
    ],
)
def test_pickles_of_anything_else_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        list(read_torch_file(archive(tmp_path / "x.bin", content)))


def saved(file: Path, state: Any, *, zipped: bool = True) -> bytes:
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.read_bytes()


def test_a_checkpoint_of_a_training_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "x.bin", {"model": {"w": torch.ones(2)}, "epoch": 3})
    with pytest.raises(CheckpointError, match="holds more than tensors: 'model' is a dict"):
        list(read_torch_file(tmp_path / "x.bin"))
    saved(tmp_path / "x.bin", torch.ones(2))
    with pytest.raises(CheckpointError, match="where tensors by name were expected"):
        list(read_torch_file(tmp_path / "x.bin"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "x.bin"
    content = saved(file, {"a": torch.ones(50), "b": torch.ones(70)}, zipped=zipped)
    for size in (0, 1, 20, len(content) // 2, len(content) - 200):
        file.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"x\.bin"):
            list(read_torch_file(file))


def test_compressed_big_endian_and_short_storages_are_refused(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.bin", {"a": torch.ones(50)})
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        entries = {entry.filename.partition("/")[2]: source.read(entry) for entry in source.infolist()}

    def rewrite(changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(tmp_path / "y.bin", "w", compression) as target:
            for name, data in (entries | changes).items():
                target.writestr(f"y/{name}", data)
        return tmp_path / "y.bin"

    assert [tensor.read().sum() for tensor in read_torch_file(rewrite({}))] == [50]
    with pytest.raises(CheckpointError, match="compressed"):
        list(read_torch_file(rewrite({}, zipfile.ZIP_DEFLATED)))
    with pytest.raises(CheckpointError, match="big-endian"):
        list(read_torch_file(rewrite({"byteorder": b"big"})))
    with pytest.raises(CheckpointError, match="truncated or damaged: the tensor a"):
        list(read_torch_file(rewrite({"data/0": bytes(199)})))
    del entries["data/0"]
    with pytest.raises(CheckpointError, match="lacks the storage 0"):
        list(read_torch_file(rewrite({})))
