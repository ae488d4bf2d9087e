"""`Encoder`: comparison with sentence-transformers, batches, streams, and unusual texts."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from fletcher import Encoder
from fletcher.convert.texts import EDGES, SENTENCES
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.batch import Batch
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, ProviderError
from fletcher.runtime.inputs import TokenIds
from fletcher.runtime.loading import Loaded
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.session.session import Session
from fletcher.runtime.tasks.postprocess import shorten
from fletcher.runtime.tasks.task import encode_ids
from fletcher.runtime.workers.pool import Workers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch and its users


@pytest.fixture(scope="module")
def encoder(minilm_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(minilm_artifact, workers=2) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def tiny(tiny_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(tiny_artifact, workers=2) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return texts from zero tokens to far above the longest input, in mixed order."""
    words = " ".join(SENTENCES).split()
    chooser = random.Random(5)
    ragged = [" ".join(chooser.choices(words, k=length)) for length in (1, 2, 3, 7, 15, 16, 17, 33, 64, 130, 260, 400)]
    mixed = [*SENTENCES[::3], *EDGES, *ragged]
    chooser.shuffle(mixed)
    return mixed


@pytest.fixture(scope="module")
def reference(minilm_checkpoint: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return vectors of sentence-transformers in float32, computed one text at a time, so that there is no padding."""
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(minilm_checkpoint), device="cpu")
    vectors: NDArray[np.float32] = model.encode(texts, batch_size=1, convert_to_numpy=True)
    return vectors


def test_vectors_are_those_of_sentence_transformers(
    encoder: Encoder, texts: list[str], reference: NDArray[np.float32]
) -> None:
    vectors = encoder.embed(texts).vectors
    assert vectors.dtype == np.float32
    assert np.abs(vectors - reference).max() <= 1e-5
    assert np.einsum("ij,ij->i", vectors.astype(np.float64), reference.astype(np.float64)).min() >= 0.999999


@pytest.mark.parametrize(("workers", "token_budget"), [(1, 512), (2, 64), (3, 1), (1, 4096)])
def test_workers_and_token_budget_do_not_change_vectors(
    tiny: Encoder, tiny_artifact: Path, workers: int, token_budget: int, texts: list[str]
) -> None:
    with Encoder.load(tiny_artifact, workers=workers, token_budget=token_budget) as other:
        assert np.abs(other.embed(texts).vectors - tiny.embed(texts).vectors).max() <= 1e-6


def test_no_text_gives_no_vector(encoder: Encoder) -> None:
    embeddings = encoder.embed([])
    assert embeddings.vectors.shape == (0, 384) and embeddings.vectors.dtype == np.float32
    assert embeddings.tokens.shape == embeddings.dropped.shape == (0,)


def test_truncation_keeps_the_special_tokens_and_counts_what_it_dropped(
    encoder: Encoder, minilm_checkpoint: Path, texts: list[str]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_checkpoint)
    encodings = encoder.tokenize(texts)
    limit = 256  # of the checkpoint's sentence_bert_config.json
    for index, text in enumerate(texts):
        whole = tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = tokenizer(text, truncation=True, max_length=limit, padding=False)["input_ids"]
        assert encodings.ids[encodings.offsets[index] : encodings.offsets[index + 1]].tolist() == cut
        assert encodings.dropped[index] == max(len(whole) - limit, 0)
    assert encodings.dropped.max() > 100


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 2_000_000, id="words"),
        pytest.param("x" * 10_000_000, id="one word"),
        pytest.param("." * 2_000_000, id="punctuation"),
        pytest.param("面" * 1_000_000, id="Chinese"),
        pytest.param("\x00" * 10_000_000, id="NUL"),
    ],
)
def test_megabytes_in_one_text_are_truncated(encoder: Encoder, text: str) -> None:
    embeddings = encoder.embed([text, "short"])
    # BERT's rules: every word has at least one id; a word of more than 100 letters has one; control characters are removed.
    tokens = {"w": 2_000_000, "x": 1, ".": 2_000_000, "面": 1_000_000, "\x00": 0}[text[0]] + 2
    assert embeddings.tokens[0] == min(tokens, 256)
    dropped = max(tokens - 256, 0)
    # A lower bound: a text whose words end at spaces is not tokenized whole.
    assert (0 < embeddings.dropped[0] <= dropped) if dropped else embeddings.dropped[0] == 0
    assert np.linalg.norm(embeddings.vectors, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("a string", "pass a list"),
        (["fine", "a\ud800b"], r"text 1 holds the lone surrogate U\+D800 at character 1"),
        (["\udfff"], "text 0 holds the lone surrogate"),
        (["fine", None], "text 1 is NoneType"),
        ([b"bytes"], "text 0 is bytes"),
        ([("a", "pair")], "text 0 is tuple"),
        (["fine", ["a", "pair"]], "text 1 is list"),
    ],
)
def test_the_error_for_an_invalid_text_names_its_index(encoder: Encoder, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.embed(wrong)


def test_unknown_input_type_names_the_known_ones(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"'sentence'; .* has query, document, clustering, classification, raw"):
        encoder.embed(["a"], input_type="sentence")


# Token ids that the caller made -----------------------------------------------------------------------------------------


def test_token_ids_give_the_vector_of_their_text(encoder: Encoder, texts: list[str]) -> None:
    encodings = encoder.tokenize(texts)
    rows = np.split(encodings.ids, encodings.offsets[1:-1])
    checked = encode_ids(encoder.tokenizer, TokenIds([row.tolist() for row in rows]), "minilm")
    assert np.array_equal(checked.ids, encodings.ids) and np.array_equal(checked.offsets, encodings.offsets)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[101, 102], []], "row 1 of token ids is empty"),
        ([[101, 30522]], "row 0 holds the token id 30522; the vocabulary of minilm has ids 0 to 30521"),
        ([[-1]], "token id -1"),
        ([[1.5, 2]], "row 0 of token ids holds values that are not whole numbers below"),
        ([["a"]], "values that are not whole numbers below"),
        ([[True]], "values that are not whole numbers below"),
        ([[2**70]], "values that are not whole numbers below"),
        ([[[1], [2]]], "values that are not whole numbers below"),
    ],
)
def test_invalid_token_ids_are_rejected(encoder: Encoder, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_ids(encoder.tokenizer, TokenIds(rows), "minilm")


# Prompts and Matryoshka -------------------------------------------------------------------------------------------------


def _with_card(encoder: Encoder, artifact: Path, **changes: Any) -> Encoder:
    """Return an encoder of the same parts with changes in the card."""
    opened = Artifact.open(artifact)
    card: ModelCard = msgspec.structs.replace(opened.manifest.card, **changes)
    manifest = msgspec.structs.replace(opened.manifest, card=card)
    return _joined(encoder, encoder._workers.session, 512, Artifact(opened.path, manifest))


def _joined(encoder: Encoder, session: Any, token_budget: int, artifact: Artifact | None = None) -> Encoder:
    """Return an encoder with one worker on another session, and with the tokenizer and tolerance of `encoder`."""
    workers = Workers(session, encoder.variant.outputs, name="test", count=1, token_budget=token_budget)
    loaded = Loaded(
        encoder.variant, encoder.info.provider_name, encoder.tokenizer, workers, None, "", encoder.tolerance
    )
    return Encoder(artifact or encoder.artifact, loaded)


def test_prompts_come_before_the_text(encoder: Encoder, minilm_artifact: Path) -> None:
    prompted = _with_card(encoder, minilm_artifact, prompts={"query": "query: ", "document": "passage: ", "sts": "S "})
    expected = encoder.embed(["query: a", "passage: a", "passage: a", "S a", "a", "a"], input_type="raw").vectors
    kinds = ("query", "document", None, "sts", "raw", "clustering")
    vectors = np.concatenate([prompted.embed(["a"], input_type=kind).vectors for kind in kinds])
    assert np.abs(vectors - expected).max() <= 1e-6


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_shortened_vectors_are_torchs(
    encoder: Encoder, minilm_artifact: Path, layer_norm: bool, normalize: bool
) -> None:
    changed = _with_card(
        encoder, minilm_artifact, matryoshka=(256, 64), layer_norm_before_truncation=layer_norm, normalize=normalize
    )
    raw = torch.randn(5, 384, generator=torch.Generator().manual_seed(1)) + 0.5
    raw[3] = 0  # a zero vector must not become NaN
    functional = torch.nn.functional
    expected = functional.layer_norm(raw, (384,)) if layer_norm else raw
    expected = expected[:, :64]
    expected = functional.normalize(expected, dim=1) if normalize else expected
    # If the model normalizes, its graph has already normalized the vectors.
    vectors = (functional.normalize(raw, dim=1) if normalize else raw).numpy()
    shortened = shorten(vectors, changed.card, 64)
    assert shortened.dtype == np.float32
    np.testing.assert_allclose(shortened, expected.numpy(), atol=2e-6)
    assert shorten(vectors, changed.card, None) is vectors and shorten(vectors, changed.card, 384) is vectors


def test_a_length_that_was_not_trained_is_refused_before_anything_is_computed(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="dimensions is 128; all-MiniLM-L6-v2 gives vectors of 384"):
        encoder.embed(["\ud800"], dimensions=128)
    with pytest.raises(InputError, match="dimensions is 0: it must be a whole number, at least 1"):
        next(encoder.stream([["a"]], EmbedOptions(dimensions=0)))


# Streams ------------------------------------------------------------------------------------------------------------------


def _alive(prefix: str) -> int:
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())


def test_a_stream_gives_what_embed_gives(tiny: Encoder, texts: list[str]) -> None:
    chunks = [texts[:10], [], texts[10:11], texts[11:]]
    streamed = list(tiny.stream(iter(chunks)))
    assert [len(part) for part in streamed] == [len(chunk) for chunk in chunks]
    expected = tiny.embed(texts)
    for name in ("vectors", "tokens", "dropped"):
        joined = np.concatenate([getattr(part, name) for part in streamed])
        np.testing.assert_allclose(joined, getattr(expected, name), atol=1e-6)


def test_a_stream_passes_the_error_of_its_chunks_on_and_leaves_no_thread(tiny: Encoder) -> None:
    def chunks() -> Iterator[Sequence[str]]:
        yield ["a"]
        yield ["b"]
        raise OSError("the file ended in the middle")

    before = _alive("fletcher-read")
    with pytest.raises(OSError, match="in the middle"):
        list(tiny.stream(chunks()))
    assert _alive("fletcher-read") == before


class _SlowSession(Session):
    """Session that counts its runs. Each run waits for a permit."""

    provider = "slow"

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.begun = 0

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        self.begun += 1
        self.permits.acquire()
        return np.ones((len(batch), 32), np.float32)

    def close(self) -> None: ...


def _slow(tiny: Encoder) -> tuple[Encoder, _SlowSession]:
    session: Any = _SlowSession()
    return _joined(tiny, session, 1), session  # one text per batch


def test_a_stream_that_is_closed_early_leaves_no_batch_behind(tiny: Encoder) -> None:
    encoder, session = _slow(tiny)
    stream: Any = encoder.stream(["a", "b"] for _ in range(50))
    session.permits.release(2)
    next(stream)
    stream.close()
    session.permits.release()  # for the batch that may have begun; other batches get no permit
    closer = threading.Thread(target=encoder.close)
    closer.start()
    closer.join(20)
    stuck = closer.is_alive()
    session.permits.release(1000)
    assert not stuck and session.begun <= 3
    assert _alive("fletcher-read") == 0


def test_a_failing_batch_fails_the_call_and_not_the_encoder(
    tiny: Encoder, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Encoder.load(tiny_artifact, workers=2, token_budget=4) as encoder:
        session = encoder._workers.session
        real = session.run

        def run(batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
            if (batch.lengths == 7).any():
                raise ProviderError("this batch fails")
            return real(batch, output)

        monkeypatch.setattr(session, "run", run)
        with pytest.raises(ProviderError, match="this batch fails"):
            encoder.embed(["a", "aaaaa", "aa"] * 5)
        np.testing.assert_allclose(encoder.embed(["a"]).vectors, tiny.embed(["a"]).vectors, atol=1e-6)


# Threads, ends, and what a session may do -----------------------------------------------------------------------------


def test_threads_may_share_an_encoder(tiny: Encoder, texts: list[str]) -> None:
    expected = tiny.embed(texts).vectors
    with ThreadPoolExecutor(8) as pool:
        parts = [texts[start::8] for start in range(8)]
        for start, vectors in enumerate(pool.map(lambda part: tiny.embed(part).vectors, parts)):
            assert np.abs(vectors - expected[start::8]).max() <= 1e-6


def test_a_closed_encoder_raises_an_error(tiny_artifact: Path) -> None:
    encoder = Encoder.load(tiny_artifact)
    encodings = encoder.tokenize(["a"])
    encoder.close()
    encoder.close()  # a second call has no effect
    with pytest.raises(ProviderError, match="was closed: load the artifact again"):
        encoder.embed(["a"])
    with pytest.raises(ProviderError, match="closed"):
        encoder.run(encodings)
    with pytest.raises(ProviderError, match="closed"):
        list(encoder.stream([["a"]]))


def test_close_waits_for_running_batches(tiny: Encoder) -> None:
    encoder, session = _slow(tiny)
    results: queue.Queue[Any] = queue.Queue()
    caller = threading.Thread(target=lambda: results.put(encoder.embed(["a", "b"]).vectors))
    caller.start()
    while not session.begun:
        time.sleep(0.001)
    closer = threading.Thread(target=encoder.close)
    closer.start()
    session.permits.release(2)
    closer.join(30)
    caller.join(30)
    assert results.get_nowait().shape == (2, 32)


def test_nan_is_an_error_that_names_the_row(tiny: Encoder) -> None:
    encoder, session = _slow(tiny)
    session.run = lambda batch, output=None: np.full((len(batch), 32), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(ProviderError, match="NaN or infinity for row 0"):
        encoder.embed(["a"])
    encoder.close()


@pytest.mark.parametrize("option", ["workers", "token_budget"])
def test_numbers_below_one_are_refused(tiny_artifact: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} is 0"):
        Encoder.load(tiny_artifact, **{option: 0})  # type: ignore[arg-type]


def test_an_uneven_batch_is_computed_in_parts(tiny: Encoder, texts: list[str]) -> None:
    """A batch of the server may hold one long text and many short ones. Padding all of them would need much memory."""
    encodings = tiny.tokenize(["a" * 100, *["b"] * 600])
    alone = tiny.run(encodings.select(np.array([0, 1])))
    vectors = tiny.run(encodings)
    assert np.abs(vectors[:2] - alone).max() <= 1e-6
    assert np.abs(vectors[1:] - vectors[1]).max() <= 1e-6
