"""Bulk jobs: every text gets its vector, in order, the counts are right, and a failure leaves no file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.files.embed_file import EmbedSummary, embed_file
from fletcher.serve.files.texts import open_texts

from ..fake_encoder import CARD, info

LIMIT = 6


@dataclass
class Counter:
    texts: int = 0
    tokens: int = 0

    def advance(self, *amounts: int, total: int | None = None) -> None:
        self.texts += amounts[0]
        self.tokens += amounts[1]


class Lengths:
    """Fake encoder: the vector of a text is its length, its first character and the length of the input type.

    Each character is one token, at most `LIMIT`, so that every number can be computed by hand. It reads one chunk ahead, as
    the real encoder does.
    """

    def __init__(self) -> None:
        card = msgspec.structs.replace(CARD, name="lengths", dimension=3, matryoshka=(2,))
        self.info = info(card=card, dimension=3, variant="hand-fp32")

    def stream(self, chunks: Iterable[Sequence[str]], options: EmbedOptions) -> Iterator[Embeddings]:
        ahead: list[Sequence[str]] = []
        for chunk in chunks:
            ahead.append(chunk)
            if len(ahead) == 2:
                yield self._embed(ahead.pop(0), options)
        for chunk in ahead:
            yield self._embed(chunk, options)

    def _embed(self, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
        rows = [[len(text), ord(text[0]) if text else 0, len(options.input_type or "")] for text in texts]
        lengths = np.array([len(text) for text in texts], np.int64)
        vectors = np.array(rows, np.float32)[:, : options.dimensions]
        return Embeddings(vectors, np.minimum(lengths, LIMIT), np.maximum(lengths - LIMIT, 0).astype(np.int32))


TEXTS = ["a", "bb", "", "a longer one", "ccc", "the longest of all", "z"]
EXPECTED = np.array([[len(text), ord(text[0]) if text else 0, 5] for text in TEXTS], np.float32)


def embed(
    source: Path, output: Path, *, chunk_texts: int = 2, dimensions: int | None = None, force: bool = False
) -> tuple[EmbedSummary, Counter]:
    progress = Counter()
    with open_texts(str(source), chunk_texts=chunk_texts) as texts:
        summary = embed_file(
            cast(Encoder, Lengths()),
            texts,
            output,
            options=EmbedOptions(input_type="query", dimensions=dimensions),
            force=force,
            progress=progress,
        )
    return summary, progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(text + "\n" for text in TEXTS))
    return path


@pytest.mark.parametrize("chunk_texts", [1, 2, 100])
def test_vectors_are_in_the_order_of_the_file(chunk_texts: int, source: Path, tmp_path: Path) -> None:
    embed(source, tmp_path / "out.npy", chunk_texts=chunk_texts)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), EXPECTED)


def test_columns_stay_with_their_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list("abcdefg"), "text": TEXTS, "year": range(7)}), tmp_path / "in.parquet")
    embed(tmp_path / "in.parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == list("abcdefg")
    assert table["text"].to_pylist() == TEXTS
    assert table["year"].to_pylist() == list(range(7))
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist()), EXPECTED)


def test_summary_and_progress_add_up(source: Path, tmp_path: Path) -> None:
    summary, progress = embed(source, tmp_path / "out.npy")
    # The texts have 1, 2, 0, 12, 3, 18 and 1 characters; at most 6 of each are tokens of the model.
    assert (summary.texts, summary.tokens, summary.truncated_texts, summary.dropped_tokens) == (7, 19, 2, 18)
    assert (progress.texts, progress.tokens) == (7, 19)
    assert (summary.model, summary.variant, summary.provider, summary.dimension) == (
        "lengths",
        "hand-fp32",
        "by hand",
        3,
    )
    assert summary.seconds > 0


def test_shorter_vectors(source: Path, tmp_path: Path) -> None:
    summary, _ = embed(source, tmp_path / "out.npy", dimensions=2)
    assert summary.dimension == 2
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), EXPECTED[:, :2])


def test_dimensions_that_the_model_lacks_are_rejected_before_a_file_is_created(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dimensions is 5; lengths gives vectors of 3, 2"):
        embed(source, tmp_path / "out.npy", dimensions=5)
    assert list(tmp_path.iterdir()) == [source]


def test_an_error_late_in_the_input_leaves_no_output(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(b"fine\n" * 50 + b"\xff\n")
    with pytest.raises(InputError, match="line 51"):
        embed(source, tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == [source]


def test_no_texts(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"")
    summary, _ = embed(tmp_path / "in.txt", tmp_path / "out.npy")
    assert (summary.texts, np.load(tmp_path / "out.npy").shape) == (0, (0, 3))


def test_the_real_model_returns_its_published_vectors(minilm_artifact: Path, tmp_path: Path) -> None:
    """Compare a job on the canary's texts with their vectors, which the code of the model's authors computed."""
    with Encoder.load(minilm_artifact, workers=1) as encoder:
        canary = read_canary(encoder.artifact.canary_file)
        pq.write_table(pa.table({"text": list(canary.texts)}), tmp_path / "in.parquet")
        with open_texts(str(tmp_path / "in.parquet"), chunk_texts=3) as texts:
            summary = embed_file(
                encoder,
                texts,
                tmp_path / "out.npy",
                options=EmbedOptions(input_type="raw"),
                force=False,
                progress=Counter(),
            )
    assert summary.texts == len(canary.texts)
    assert summary.tokens == canary.encodings.num_tokens
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), canary.vectors, rtol=0, atol=1e-5)


def test_every_format_names_the_space_of_its_vectors(source: Path, tmp_path: Path) -> None:
    space = f"{info().space.id}.2"
    for suffix in (".npy", ".parquet", ".arrow"):
        summary, _ = embed(source, tmp_path / f"out{suffix}", dimensions=2)
        assert summary.space == space
    beside = json.loads((tmp_path / "out.npy.json").read_text())
    assert (beside["space"], beside["model"], beside["dtype"]) == (space, "lengths", "float32")
    assert pq.read_schema(tmp_path / "out.parquet").metadata[b"fletcher.space"] == space.encode()
    with pa.OSFile(str(tmp_path / "out.arrow")) as file:
        assert pa.ipc.open_file(file).schema.metadata[b"fletcher.space"] == space.encode()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "in.txt") == [
        "out.arrow",
        "out.npy",
        "out.npy.json",
        "out.parquet",
    ]


def test_vectors_of_another_space_are_refused_before_a_file_is_created(source: Path, tmp_path: Path) -> None:
    space = info().space.id
    with (
        open_texts(str(source)) as texts,
        pytest.raises(InputError, match=rf"would be of the space {space}\.2, not {space}"),
    ):
        embed_file(
            cast(Encoder, Lengths()),
            texts,
            tmp_path / "out.npy",
            options=EmbedOptions(dimensions=2),
            force=False,
            space=space,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    with open_texts(str(source)) as texts:
        embed_file(
            cast(Encoder, Lengths()), texts, tmp_path / "out.npy", options=EmbedOptions(), force=False, space=space
        )
    assert (tmp_path / "out.npy").exists()


def test_a_file_beside_the_vectors_is_not_replaced_without_force(source: Path, tmp_path: Path) -> None:
    beside = tmp_path / "out.npy.json"
    beside.write_text("mine")
    with pytest.raises(InputError, match=r"out\.npy\.json exists"):
        embed(source, tmp_path / "out.npy")
    assert beside.read_text() == "mine" and not (tmp_path / "out.npy").exists()
    embed(source, tmp_path / "out.npy", force=True)
    assert "space" in json.loads(beside.read_text())
