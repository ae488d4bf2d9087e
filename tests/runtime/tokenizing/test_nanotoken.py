"""nanotoken: comparison with HuggingFace's tokenizers, and the conditions under which it is used."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
import threading
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer
from tokenizers.processors import TemplateProcessing

from fletcher.runtime.tokenizing import nanotoken as fast_tokenizer
from fletcher.runtime.tokenizing.conformance_texts import hostile_texts
from fletcher.runtime.tokenizing.long_text import PIECE
from fletcher.runtime.tokenizing.nanotoken import FastTokenizer, NotUsed, open_fast
from fletcher.runtime.tokenizing.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def file(minilm_artifact: Path) -> Path:
    return minilm_artifact / "tokenizer.json"


@pytest.fixture(scope="module")
def fast(file: Path) -> FastTokenizer:
    opened = open_fast(file, plain(file))
    assert isinstance(opened, FastTokenizer)
    return opened


@pytest.fixture(scope="module")
def reference(file: Path) -> HuggingFaceTokenizer:
    return plain(file)


def plain(file: Path) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def rows(fast: FastTokenizer, texts: list[str]) -> list[list[int]]:
    ids, offsets = fast.encode(texts)
    return [ids[start:end].tolist() for start, end in itertools.pairwise(offsets)]


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_ids_of_any_text_are_those_of_tokenizers(
    fast: FastTokenizer, reference: HuggingFaceTokenizer, texts: list[str]
) -> None:
    assert rows(fast, texts) == [reference.encode(text).ids for text in texts]


def test_hostile_texts_are_many_valid_and_the_same_every_time() -> None:
    texts = hostile_texts(["[CLS]", "[MASK]"], ["un", "##able"])
    assert texts == hostile_texts(["[CLS]", "[MASK]"], ["un", "##able"])
    assert len(texts) > 200
    assert all(text.encode() is not None for text in texts)
    assert {"a[CLS]b", "un ##able", "unable"} <= set(texts)
    many = hostile_texts([f"[unused{number}]" for number in range(1000)], [])
    assert len(many) < 700 and {"[unused0]", "[unused999]"} <= set(many)


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False])
def test_twenty_thousand_random_texts(file: Path, tmp_path: Path, lowercase: bool) -> None:
    reference = plain(file)
    reference.normalizer = BertNormalizer(lowercase=lowercase)
    reference.save(str(tmp_path / "tokenizer.json"))
    fast = open_fast(tmp_path / "tokenizer.json", reference)
    assert isinstance(fast, FastTokenizer)
    source = random.Random(7)
    planes = (0x80, 0x250, 0x3000, 0xD7FF, 0x1FFFF, 0x10FFFF)

    def character() -> str:
        code = source.randrange(source.choice(planes))
        return "?" if 0xD800 <= code < 0xE000 else chr(code)

    texts = ["".join(character() for _ in range(source.randrange(60))) for _ in range(20_000)]
    assert rows(fast, texts) == [encoding.ids for encoding in reference.encode_batch_fast(texts)]


def test_the_tokenizer_uses_it_and_counts(file: Path) -> None:
    tokenizer = Tokenizer(file, 16)
    assert tokenizer.implementation.startswith("nanotoken 0.1")
    assert tokenizer.fast_problem is None
    slow = Tokenizer(file, 16, fast=False)
    assert slow.implementation.startswith("tokenizers ")
    texts = ["a few words", "", "many " * 40]
    assert tokenizer.encode(texts).ids.tolist() == slow.encode(texts).ids.tolist()
    assert tokenizer.encode(texts).dropped.tolist() == [0, 0, 40 + 2 - 16]
    assert (tokenizer.stats.texts, tokenizer.stats.tokens) == (6, 2 * (5 + 2 + 42))
    assert tokenizer.stats.seconds > 0
    assert tokenizer.stats.cache_hits == tokenizer.stats.cache_misses == 0


def test_a_tokenizer_that_differs_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cased = plain(file)
    cased.normalizer = BertNormalizer(lowercase=False)
    opened = open_fast(file, cased)
    assert isinstance(opened, NotUsed) and opened.fault
    assert "gives other ids than tokenizers for " in opened.reason
    monkeypatch.setattr(fast_tokenizer, "hostile_texts", lambda *given: ["abc"])
    assert isinstance(open_fast(file, cased), FastTokenizer)  # this text alone does not show the difference


def test_another_kind_of_tokenizer_is_named(tiny_words: Path) -> None:
    tokenizer = Tokenizer(tiny_words, 16)
    assert tokenizer.fast_problem is not None
    assert "does not support this kind of tokenizer" in tokenizer.fast_problem
    assert tokenizer.implementation.startswith("tokenizers ")


def test_without_the_package_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        if package == fast_tokenizer.PACKAGE:
            raise metadata.PackageNotFoundError(package)
        return version(package)

    version = metadata.version
    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    tokenizer = Tokenizer(file, 16)
    assert tokenizer.fast_problem == "nanotoken is not installed: pip install 'longbow-fletcher[fast-tokenizer]'"
    assert tokenizer.encode(["words"]).ids.tolist() == plain(file).encode("words").ids


def test_a_package_that_cannot_be_imported_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    problem = Tokenizer(file, 16).fast_problem
    assert problem is not None
    assert re.fullmatch(r"nanotoken 0\.1\.\d+ cannot be imported \(.*nanotoken.*\): pip install .*", problem)


def test_one_that_fails_on_a_text_is_not_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FastTokenizer, texts: list[str]) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(FastTokenizer, "encode", fail)
    tokenizer = Tokenizer(file, 16)
    assert [record.levelname for record in caplog.records] == [
        "WARNING"
    ]  # logged once, and the fast tokenizer is not used
    assert tokenizer.fast_problem is not None
    assert "fails on a text that tokenizers accepts: RuntimeError: out of order" in tokenizer.fast_problem
    assert tokenizer.encode(["words"]).ids.tolist() == plain(file).encode("words").ids


def test_another_version_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_tokenizer, "KNOWN", "7.7")
    monkeypatch.setitem(sys.modules, "nanotoken", None)  # an import would fail
    problem = Tokenizer(file, 16).fast_problem
    assert problem is not None
    assert "is not the version that was compared with tokenizers: install nanotoken 7.7" in problem


FORKED = """
import os, sys
from pathlib import Path
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

file = Path(sys.argv[1])
tokenizer = Tokenizer(file, 16)
assert tokenizer.implementation.startswith("nanotoken "), tokenizer.fast_problem
texts = ["some words and more of them " * 20] * 5000
expected = tokenizer.encode(texts).ids
child = os.fork()
if child == 0:
    same = (tokenizer.encode(texts).ids == expected).all() and (Tokenizer(file, 16).encode(texts).ids == expected).all()
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_tokenizes_on(file: Path) -> None:
    """nanotoken's pool has no threads in a forked process: `parallel=True` would never return."""
    done = subprocess.run([sys.executable, "-c", FORKED, str(file)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fast_one", [True, False])
def test_other_threads_run_during_a_call(fast: FastTokenizer, file: Path, fast_one: bool) -> None:
    """The call does not hold the GIL: another Python thread runs during it."""
    encode: Any = fast.encode if fast_one else plain(file).encode_batch_fast
    texts = ["some words and more of them " * 20] * (20_000 if fast_one else 1000)
    counted, done = [0], threading.Event()
    interval = sys.getswitchinterval()

    def count() -> None:
        while not done.wait(0.0005):
            counted[0] += 1

    counter = threading.Thread(target=count)
    sys.setswitchinterval(
        100
    )  # seconds: no thread is forced to release the GIL, so another one runs only if it is released
    try:
        counter.start()
        before = counted[0]
        encode(texts)
        during = counted[0] - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        counter.join()
    assert during > 0


def test_every_method_is_counted(file: Path) -> None:
    tokenizer = Tokenizer(file, 4)
    assert sum(len(window) - 2 for window in tokenizer.windows("one two three", size=3, overlap=0)) == 3
    assert (tokenizer.stats.texts, tokenizer.stats.tokens) == (1, 3)
    assert len(tokenizer.plain_ids("four five")) == 2
    assert (tokenizer.stats.texts, tokenizer.stats.tokens) == (2, 5)
    assert tokenizer.encode_pairs(["one two"], ["three"]).dropped.tolist() == [2]
    assert (tokenizer.stats.texts, tokenizer.stats.tokens) == (4, 11)
    slow = Tokenizer(file, 16, fast=False)
    slow.encode(["x" * 3000])  # too long for the cache, so no lookup
    assert (slow.stats.cache_hits, slow.stats.cache_misses) == (0, 0)


def test_the_slow_tokenizer_caches_recent_short_texts(file: Path) -> None:
    tokenizer = Tokenizer(file, 16, fast=False)
    first = tokenizer.encode(["one text", "another"])
    again = tokenizer.encode(["another", "one text", "a third"])
    assert (tokenizer.stats.cache_hits, tokenizer.stats.cache_misses) == (2, 3)
    assert again.select(tokenizer_rows(1, 0)).ids.tolist() == first.ids.tolist()
    alone = tokenizer.encode(["another"])
    with pytest.raises(ValueError, match="read-only"):
        alone.ids[0] = 7  # callers must not change cached ids
    none = Tokenizer(file, 16, fast=False, cache_bytes=0)
    none.encode(["a"])
    none.encode(["a"])
    assert none.stats.cache_hits == 0


def tokenizer_rows(*rows: int) -> Any:
    return np.array(rows)


@pytest.fixture(scope="module")
def tiny_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = HuggingFaceTokenizer(WordLevel({"u": 0, "a": 1, "b": 2}, unk_token="u"))
    words.pre_tokenizer = Whitespace()
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    words.save(str(path))
    return path


# Truncation and windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast_one", [True, False])
def test_the_left_side_is_cut_as_transformers_cuts_it(file: Path, minilm_checkpoint: Path, fast_one: bool) -> None:
    reference: Any = transformers.AutoTokenizer.from_pretrained(minilm_checkpoint, truncation_side="left")
    texts = ["one two three four five six seven eight nine ten", "short", ""]
    expected = [reference(text, truncation=True, max_length=6, padding=False)["input_ids"] for text in texts]
    encodings = Tokenizer(file, 6, fast=fast_one).encode(texts, side="left")
    assert [
        encodings.ids[a:b].tolist() for a, b in zip(encodings.offsets[:-1], encodings.offsets[1:], strict=True)
    ] == expected
    assert encodings.dropped.tolist() == [6, 0, 0]


@pytest.mark.parametrize(
    ("prefix", "suffix"), [(["<s>"], ["</s>"]), ([], []), (["<s>", "</s>"], []), ([], ["</s>", "</s>"])]
)
def test_the_left_side_of_every_arrangement(tmp_path: Path, prefix: list[str], suffix: list[str]) -> None:
    """RoBERTa's special tokens (with byte-level BPE), no special tokens, and other arrangements."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    backend = HuggingFaceTokenizer(BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = TemplateProcessing(
        single=[*prefix, "$A", *suffix], special_tokens=[("<s>", 0), ("</s>", 1)] if prefix or suffix else []
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    published: Any = transformers.PreTrainedTokenizerFast  # untyped
    reference = published(tokenizer_file=str(tmp_path / "tokenizer.json"), truncation_side="left")
    for text in ("", "a", "abcd", "abcdefghij klm", "é" * 9):
        encodings = Tokenizer(tmp_path / "tokenizer.json", 6).encode([text], side="left")
        assert encodings.ids.tolist() == reference(text, truncation=True, max_length=6)["input_ids"]
        assert encodings.dropped[0] == len(reference(text)["input_ids"]) - len(encodings.ids)


@pytest.mark.parametrize("fast_one", [True, False])
def test_windows_of_a_long_hostile_text_are_the_whole(file: Path, fast_one: bool) -> None:
    """The text is tokenized in pieces that end at words, and no token differs from the text tokenized at once."""
    text = " ".join(hostile_texts(["[CLS]", "[SEP]"], ["un", "##able"])) * 16
    assert len(text) > 3 * PIECE
    expected = plain(file).encode(text, add_special_tokens=False).ids
    tokenizer = Tokenizer(file, 16, fast=fast_one)
    windows = list(tokenizer.windows(text, size=130, overlap=0))
    assert np.concatenate([window[1:-1] for window in windows]).tolist() == expected
    assert {len(window) for window in windows[:-1]} == {130}
    assert tokenizer.encode([text], side="neither").ids[1:-1].tolist() == expected


@given(st.integers(0, 60), st.integers(4, 12), st.integers(0, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_windows_cover_the_text_in_order(file: Path, words: int, size: int, overlap: int, fast_one: bool) -> None:
    tokenizer = opened(file, fast_one)
    text = " ".join(["one", "two", "three", "four", "five", "six", "seven"][index % 7] for index in range(words))
    overlap = min(overlap, size - 3)
    windows = list(tokenizer.windows(text, size=size, overlap=overlap))
    assert max(map(len, windows)) <= size
    assert all((window[0], window[-1]) == (101, 102) for window in windows)
    bodies = [window[1:-1].tolist() for window in windows]
    joined = bodies[0] + [token for body in bodies[1:] for token in body[overlap:]]
    assert joined == tokenizer.encode([text], side="neither").ids[1:-1].tolist()
    assert len(windows) == 1 or min(len(body) for body in bodies) > overlap


@cache
def opened(file: Path, fast_one: bool = True) -> Tokenizer:
    return Tokenizer(file, 16, fast=fast_one)


def test_windows_of_a_very_long_text_hold_a_part_of_it(file: Path) -> None:
    import tracemalloc

    tokenizer = opened(file)
    text = "some words, " * 400_000  # 4.8 MB, 1.2 million tokens: 4.8 MB of ids
    tracemalloc.start()
    try:
        tokens = sum(len(window) - 2 for window in tokenizer.windows(text, size=512, overlap=0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tokens == 3 * 400_000
    assert peak < 2 << 20


def test_an_overlap_without_room_is_refused(file: Path) -> None:
    from fletcher.runtime.errors import InputError

    with pytest.raises(InputError, match="choose an overlap from 0 to 5"):
        list(opened(file).windows("a", size=8, overlap=6))
