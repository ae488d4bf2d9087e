"""Weights that are joined when they are read, and names of tensors with a prefix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tensors import TensorReader, Weight, concatenate, constant
from fletcher.convert.checkpoint.weights.stored import StoredTensor
from fletcher.runtime.errors import CheckpointError


def reader(*names: str, prefixes: tuple[str, ...] = ("bert.",)) -> TensorReader:
    tensors = {name: StoredTensor(name, (2,), np.dtype(np.float32), Path("x"), 0) for name in names}
    return TensorReader(Checkpoint(Path("folder"), {"model_type": "bert"}, tensors), prefixes)


def test_the_prefix_of_a_task_model_is_removed() -> None:
    tensors = reader("bert.w", "cls.predictions.bias", "classifier.weight")
    assert tensors.has("w") and not tensors.has("v")
    assert tensors.take("w", (2,)).name == "w"
    tensors.ignore("cls.", "classifier.")
    tensors.finish()


def test_old_names_of_a_norm_are_accepted_and_duplicates_are_surplus() -> None:
    reader("n.gamma", "n.beta").norm("n", 2, 1e-5)
    both = reader("n.weight", "n.bias", "n.gamma")
    both.norm("n", 2, 1e-5)
    with pytest.raises(CheckpointError, match=r"n\.gamma"):
        both.finish()


def test_many_surplus_tensors_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"t0, t1, t2, t3, t4 and 3 more"):
        reader(*(f"t{index}" for index in range(8))).finish()


def test_tensors_are_read_on_access_only() -> None:
    def load() -> np.ndarray:
        raise AssertionError("read too early")

    joined = concatenate("j", [Weight("a", (3, 2), load), Weight("b", (3, 5), load)], axis=-1)
    assert joined.shape == (3, 7) and joined.renamed("p").name == "p.j"


def test_joined_weights_equal_those_of_numpy() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)
    joined = concatenate("j", [constant("a", a), constant("b", b)], axis=0)
    assert np.array_equal(joined.load(), np.concatenate([a, b])) and joined.load().dtype == np.float32
