"""Windows and late chunking, compared with transformers in float32: token states from torch, averaged in the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks import long_documents as longdocs_module

LONG = " ".join(SENTENCES)
SHORT = "A man is eating food."
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def encoder(minilm_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(minilm_artifact, workers=2, provider="mlas") as loaded:
        yield loaded


class Reference:
    """all-MiniLM-L6-v2 in transformers: token ids of a text, and states of token ids."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self.model: Any = transformers.AutoModel.from_pretrained(folder).eval()

    def own_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def states(self, own: list[int]) -> NDArray[np.float32]:
        ids = [self.tokenizer.cls_token_id, *own, self.tokenizer.sep_token_id]
        with torch.no_grad():
            states: NDArray[np.float32] = self.model(torch.tensor([ids])).last_hidden_state[0].numpy()
        return states


@pytest.fixture(scope="module")
def reference(minilm_checkpoint: Path) -> Reference:
    return Reference(minilm_checkpoint)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


def cut(ids: list[int], body: int, overlap: int) -> list[tuple[int, int]]:
    """Return the spans of windows over `ids`, each with `body` ids of which `overlap` are in the window before."""
    spans, start = [], 0
    while True:
        spans.append((start, min(start + body, len(ids))))
        if spans[-1][1] == len(ids):
            return spans
        start += body - overlap


def test_windows_are_averaged_by_their_tokens(encoder: Encoder, reference: Reference) -> None:
    embeddings = encoder.embed([LONG, SHORT], overflow="windows", window_tokens=64, overlap_tokens=8)
    ids = reference.own_ids(LONG)
    spans = cut(ids, 62, 8)
    assert len(spans) > 4
    windows = [unit(reference.states(ids[start:end]).mean(axis=0)) for start, end in spans]
    weights = [end - start for start, end in spans]
    expected = unit(np.average(windows, axis=0, weights=weights).astype(np.float32))
    np.testing.assert_allclose(embeddings.vectors[0], expected, rtol=0, atol=TOLERANCE)
    assert embeddings.chunks is not None
    assert embeddings.chunks.offsets.tolist() == [0, len(spans), len(spans) + 1]
    assert embeddings.chunks.spans[:-1].tolist() == [list(span) for span in spans]
    np.testing.assert_allclose(embeddings.chunks.vectors[:-1], windows, rtol=0, atol=TOLERANCE)
    assert embeddings.dropped.tolist() == [0, 0]
    assert embeddings.tokens[0] == sum(weights) + 2 * len(spans)


@pytest.mark.parametrize("overflow", ["windows", "late"])
def test_a_text_that_fits_has_its_usual_vector(encoder: Encoder, overflow: Any) -> None:
    texts = [SHORT, "", SENTENCES[3]]
    embeddings = encoder.embed(texts, overflow=overflow)
    np.testing.assert_allclose(embeddings.vectors, encoder.embed(texts).vectors, rtol=0, atol=1e-6)
    assert embeddings.chunks is not None
    assert embeddings.chunks.offsets.tolist() == [0, 1, 2, 3]


def test_late_chunks_have_seen_the_whole_text(encoder: Encoder, reference: Reference) -> None:
    text = " ".join(SENTENCES[:10])
    ids = reference.own_ids(text)
    assert 100 < len(ids) <= 254
    states = reference.states(ids)
    embeddings = encoder.embed([text], overflow="late", chunk_tokens=32)
    assert embeddings.chunks is not None
    spans = embeddings.chunks.spans.tolist()
    assert spans == [[start, min(start + 32, len(ids))] for start in range(0, len(ids), 32)]
    for number, (start, end) in enumerate(spans):
        # [CLS] belongs to the first chunk, [SEP] to the last one.
        rows = states[start + 1 - (number == 0) : end + 1 + (number == len(spans) - 1)]
        np.testing.assert_allclose(embeddings.chunks.vectors[number], unit(rows.mean(axis=0)), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embeddings.vectors[0], unit(states.mean(axis=0)), rtol=0, atol=TOLERANCE)


def test_late_chunks_of_a_text_of_several_rows(encoder: Encoder, reference: Reference) -> None:
    size, overlap, chunk = 100, 20, 30
    ids = reference.own_ids(LONG)
    spans = cut(ids, size - 2, overlap)
    parts = []
    for number, (start, end) in enumerate(spans):
        states = reference.states(ids[start:end])
        # Tokens that a row shares with the row before are only context.
        first = 0 if number == 0 else 1 + overlap
        parts.append(states[first : None if number == len(spans) - 1 else -1])
    states = np.concatenate(parts)
    assert len(states) == len(ids) + 2
    embeddings = encoder.embed(
        [SHORT, LONG], overflow="late", window_tokens=size, overlap_tokens=overlap, chunk_tokens=chunk
    )
    assert embeddings.chunks is not None
    first, last = embeddings.chunks.offsets[1:].tolist()
    count = -(-len(ids) // chunk)
    assert last - first == count
    for number in range(count):
        start, end = number * chunk, min((number + 1) * chunk, len(ids))
        rows = states[start + 1 - (number == 0) : end + 1 + (number == count - 1)]
        np.testing.assert_allclose(
            embeddings.chunks.vectors[first + number], unit(rows.mean(axis=0)), rtol=0, atol=TOLERANCE
        )
    np.testing.assert_allclose(embeddings.vectors[1], unit(states.mean(axis=0)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("overflow", ["windows", "late"])
def test_parts_and_batches_do_not_change_vectors(
    encoder: Encoder, overflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [LONG, SHORT, LONG[:2000], "", SHORT]
    options = {"overflow": overflow, "window_tokens": 50, "overlap_tokens": 7}
    reference = encoder.embed(texts, **options)
    name, size = ("PART_TOKENS", 120) if overflow == "windows" else ("PART_BYTES", 120 * 4 * encoder.dimension)
    monkeypatch.setattr(longdocs_module, name, size)
    held = [
        rows.encodings.num_tokens
        for rows in longdocs_module.cut_documents(encoder.tokenizer, encoder.card, texts, EmbedOptions(**options))
    ]
    assert len(held) > 2 and max(held) < 120 + 50
    parts = encoder.embed(texts, **options)
    task = encoder.prepare(Texts.of(texts), EmbedOptions(**options))
    prepared = task.finish(encoder.compute(task.encodings, task.output))
    streamed = next(encoder.stream([texts], EmbedOptions(**options)))
    for embeddings in (parts, prepared, streamed):
        np.testing.assert_allclose(embeddings.vectors, reference.vectors, rtol=0, atol=1e-6)
        assert embeddings.chunks is not None and reference.chunks is not None
        np.testing.assert_allclose(embeddings.chunks.vectors, reference.chunks.vectors, rtol=0, atol=1e-6)
        assert embeddings.chunks.spans.tolist() == reference.chunks.spans.tolist()
        assert embeddings.chunks.offsets.tolist() == reference.chunks.offsets.tolist()
    assert prepared.tokens.tolist() == reference.tokens.tolist()


def test_every_window_gets_the_prompt_and_late_chunking_one(
    encoder: Encoder, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = msgspec.structs.replace(encoder.card, prompts={"query": "represent this: "})
    monkeypatch.setattr(encoder._preparer, "info", msgspec.structs.replace(encoder.info, card=card))
    ids, prompt = reference.own_ids(LONG), reference.own_ids("represent this:")
    windows = encoder.prepare(
        Texts((LONG,)), EmbedOptions(input_type="query", overflow="windows", window_tokens=64, overlap_tokens=0)
    )
    assert windows.encodings.ids[: 1 + len(prompt)].tolist() == [101, *prompt]
    second = windows.encodings.select(np.array([1])).ids.tolist()
    assert second == [101, *prompt, *ids[62 - len(prompt) : 2 * (62 - len(prompt))], 102]
    late = encoder.prepare(
        Texts((LONG,)), EmbedOptions(input_type="query", overflow="late", window_tokens=64, overlap_tokens=0)
    )
    assert late.encodings.ids[: 1 + len(prompt)].tolist() == [101, *prompt]
    assert late.encodings.select(np.array([1])).ids.tolist() == [
        101,
        *ids[62 - len(prompt) : 2 * (62 - len(prompt))],
        102,
    ]
    embeddings = encoder.embed([SHORT], input_type="query", overflow="late")
    np.testing.assert_allclose(
        embeddings.vectors, encoder.embed([SHORT], input_type="query").vectors, rtol=0, atol=1e-6
    )


def test_truncate_left_cuts_the_left_end(encoder: Encoder, reference: Reference) -> None:
    ids = reference.own_ids(LONG)
    expected = unit(reference.states(ids[-254:]).mean(axis=0))
    embeddings = encoder.embed([LONG], overflow="truncate_left")
    np.testing.assert_allclose(embeddings.vectors[0], expected, rtol=0, atol=TOLERANCE)
    assert embeddings.dropped.tolist() == [len(ids) - 254]


def test_a_model_without_mean_pooling_has_no_late_chunking(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder._preparer, "info", msgspec.structs.replace(encoder.info, outputs=("vectors",)))
    with pytest.raises(InputError, match=r"late chunking averages token states.*use windows"):
        encoder.embed(["a"], overflow="late")


def test_a_text_of_a_million_words_takes_bounded_memory(encoder: Encoder) -> None:
    """The test only cuts the text into rows, because computing them would take minutes."""
    import tracemalloc

    text = "some words, " * 300_000
    tracemalloc.start()
    try:
        parts = longdocs_module.cut_documents(encoder.tokenizer, encoder.card, [text], EmbedOptions(overflow="windows"))
        tokens = sum(part.encodings.num_tokens for part in parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tokens > 900_000
    assert peak < 8 << 20
