"""`Batch`: the protocol that `Encodings` implements, with images as another implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.artifact.manifest import FeedRules, TensorInfo
from fletcher.runtime.artifact.memory_shape import MemoryShape
from fletcher.runtime.batch import Batch
from fletcher.runtime.encodings import Encodings, ragged_index
from fletcher.runtime.memory.budget import MemoryBudget, MemoryGate
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.session.feeds import make_feeds
from fletcher.runtime.workers.pool import Workers

PIXELS = 4


@dataclass(frozen=True, slots=True)
class Images:
    """Rows of pixels; each pixel is a token.

    Attributes:
        pixels: the pixels of each image, float32, (n, `PIXELS`).
    """

    pixels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def offsets(self) -> NDArray[np.int64]:
        return PIXELS * np.arange(len(self) + 1)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.full(len(self), PIXELS)

    @property
    def num_tokens(self) -> int:
        return PIXELS * len(self)

    def select(self, rows: NDArray[np.int64]) -> Self:
        return type(self)(self.pixels[rows])

    def token_index(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return ragged_index(self.offsets, rows)

    def tensors(self, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        return {name: {"pixels": self.pixels}[name] for name in names}


def test_encodings_name_their_tensors() -> None:
    batch: Batch = Encodings.from_lists([[5, 6], [7]])
    tensors = batch.tensors(["input_ids", "offsets", "token_type_ids"])
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "input_ids": [5, 6, 7],
        "offsets": [0, 2, 3],
        "token_type_ids": [0, 0, 0],
    }
    assert set(batch.tensors(["offsets"])) == {"offsets"}
    with pytest.raises(KeyError):
        batch.tensors(["pixels"])


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return the file of a graph that sums the pixels of each image."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", PIXELS])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["pixels", "axes"], ["vectors"], keepdims=1)
    model = helper.make_model(
        helper.make_graph([node], "images", [pixels], [vectors], [axes]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 9
    onnx.save(model, tmp_path / "images.onnx")
    return tmp_path / "images.onnx"


def test_workers_plan_and_compute_images(graph: Path) -> None:
    images = Images(np.arange(28, dtype=np.float32).reshape(7, PIXELS))
    shape = MemoryShape(token=1, cell=0, square=0)
    budget = MemoryBudget(shape, batch=2 * PIXELS, gate=MemoryGate(4 * PIXELS))
    outputs = (TensorInfo("vectors", "float32", ("n", 1)),)
    session = MlasSession(graph, threads=1)
    with closing(Workers(session, outputs, name="images", count=2, token_budget=3 * PIXELS, budget=budget)) as workers:
        vectors = workers.compute(images)
        assert workers.run(images.select(np.array([6, 0]))).tolist() == [[102], [6]]
    np.testing.assert_array_equal(vectors[:, 0], images.pixels.sum(axis=1))


def test_feeds_made_of_lengths_work_for_any_batch() -> None:
    inputs = (TensorInfo("attention_mask", "int32", ("n", "longest")), TensorInfo("offsets", "int64", ("rows",)))
    feeds = make_feeds(inputs, FeedRules(), Images(np.zeros((2, PIXELS), np.float32)))
    assert feeds["attention_mask"].tolist() == [[1] * PIXELS] * 2
    assert feeds["offsets"].tolist() == [0, 4, 8]
