"""The canary: reading, writing, and rejection of vectors that are out of tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.batch import Batch
from fletcher.runtime.canary import Canary, check_vectors, read_canary, require_session, write_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, CanaryError
from fletcher.runtime.session.session import Session

TEXTS = ("", "a\x00b", "日本 \U0001f600")
UNIT = np.eye(3, 4, dtype=np.float32)


def canary() -> Canary:
    return Canary(TEXTS, Encodings.from_lists([[1], [1, 2], [3]]), UNIT, "by hand")


def test_a_canary_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_canary(tmp_path / "c.safetensors", canary())
    loaded = read_canary(tmp_path / "c.safetensors")
    assert loaded.texts == TEXTS and loaded.origin == "by hand"
    assert np.array_equal(loaded.vectors, UNIT)
    assert loaded.encodings.ids.tolist() == [1, 1, 2, 3] and loaded.encodings.offsets.tolist() == [0, 1, 3, 4]
    assert set(load_file(tmp_path / "c.safetensors")) == {"ids", "offsets", "vectors"}


def test_invalid_canary_files_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    for content in (b"", b"not safetensors at all", b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_canary(file)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_canary(tmp_path / "missing.safetensors")
    ids, offsets = np.array([1], np.int32), np.array([0, 1], np.int64)
    save_file({"ids": ids, "offsets": offsets}, file, metadata={"texts": '["a"]', "origin": ""})
    with pytest.raises(ArtifactError, match="vectors"):
        read_canary(file)
    for texts in ('["a", "b"]', "[]"):
        save_file({"ids": ids, "offsets": offsets, "vectors": UNIT[:1]}, file, metadata={"texts": texts, "origin": ""})
        with pytest.raises(ArtifactError, match="must be equal and not zero"):
            read_canary(file)
    for texts in ("no json", "5"):
        save_file({"ids": ids, "offsets": offsets, "vectors": UNIT[:1]}, file, metadata={"texts": texts, "origin": ""})
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_canary(file)


def test_an_empty_canary_is_rejected(tmp_path: Path) -> None:
    write_canary(tmp_path / "c.safetensors", Canary((), Encodings.from_lists([]), UNIT[:0], ""))
    with pytest.raises(ArtifactError, match="0 texts"):
        read_canary(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (UNIT, ""),
        (UNIT + np.float32(5e-7), ""),
        (UNIT * np.float32(1.001), "max abs difference 1.00e-03, at most 1e-05 allowed"),
        (UNIT[:, ::-1], "cosine 0.0"),
        (UNIT[:2], "shape (2, 4) instead of (3, 4)"),
        (np.full((3, 4), np.nan, np.float32), "NaN or infinity"),
        (np.where(UNIT == 1, np.float32(np.inf), UNIT), "NaN or infinity"),
        (np.zeros((3, 4), np.float32), "cosine 0.0"),
    ],
)
def test_vectors_are_compared_by_cosine_and_difference(vectors: np.ndarray, reason: str) -> None:
    result = check_vectors(vectors, UNIT, min_cosine=0.999999, max_abs=1e-5)
    assert result.passed == (not reason)
    assert reason in result.reason


def test_without_a_difference_only_the_cosine_is_checked() -> None:
    assert check_vectors(UNIT * 3, UNIT, min_cosine=0.999999, max_abs=None).passed


def test_nothing_passes_with_nan_in_the_reference() -> None:
    broken = np.where(UNIT == 1, np.float32(np.nan), UNIT)
    assert not check_vectors(UNIT, broken, min_cosine=0.9, max_abs=1e-5).passed
    assert not check_vectors(UNIT, broken, min_cosine=0.9, max_abs=None).passed


class Fixed(Session):
    """Session that returns the same vectors for every batch."""

    provider = "fixed"

    def __init__(self, vectors: np.typing.NDArray[np.float32]) -> None:
        self.vectors = vectors

    def run(self, batch: Batch, output: str | None = None) -> np.typing.NDArray[np.float32]:
        assert batch.tensors(["input_ids"])["input_ids"].tolist() == [1, 1, 2, 3]
        return self.vectors

    def close(self) -> None: ...


def test_a_single_session_must_give_the_canarys_vectors() -> None:
    tolerance = Accuracy(min_cosine=0.999)
    require_session(Fixed(UNIT), canary(), "vectors", tolerance)
    require_session(Fixed(UNIT.astype(np.float16)), canary(), "vectors", tolerance)
    with pytest.raises(CanaryError, match=r"a session on fixed does not reproduce its canary: cosine 0\.0+,"):
        require_session(Fixed(UNIT[::-1].copy()), canary(), "vectors", tolerance)


@pytest.mark.parametrize(
    "change",
    [
        {"ids": np.zeros(4, np.float32)},
        {"ids": np.zeros((2, 2), np.int32)},
        {"offsets": np.array([0, 9, 1, 4], np.int64)},
        {"offsets": np.array([0, 1, 3, 5], np.int64)},
        {"offsets": np.array([], np.int64)},
        {"vectors": np.zeros(3, np.float32)},
        {"vectors": np.zeros((3, 4), np.int8)},
    ],
)
def test_arrays_that_do_not_fit_together_are_rejected(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    file = tmp_path / "c.safetensors"
    write_canary(file, canary())
    metadata = {"texts": json.dumps(TEXTS), "origin": "by hand"}
    save_file(load_file(file) | change, file, metadata=metadata)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_canary(file)


@pytest.mark.parametrize(
    "metadata",
    [{"dimension": "1000000000000"}, {"dimension": "-4"}, {"dimension": "1"}, {"texts": "[" * 100_000}, {"texts": "{"}],
)
def test_a_sparse_canary_with_false_metadata_is_rejected(tmp_path: Path, metadata: dict[str, str]) -> None:
    file = tmp_path / "c.safetensors"
    sparse = np.zeros((3, 400), np.float32)
    sparse[:, 7] = 1
    write_canary(file, Canary(TEXTS, canary().encodings, sparse, "by hand"))
    right = {"texts": json.dumps(TEXTS), "origin": "by hand", "dimension": "400"}
    save_file(load_file(file), file, metadata=right)
    assert np.array_equal(read_canary(file).vectors, sparse)
    save_file(load_file(file), file, metadata=right | metadata)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_canary(file)
