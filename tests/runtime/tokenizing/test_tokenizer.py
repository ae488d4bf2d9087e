"""The runtime's tokenizer, compared with transformers token by token, for all arrangements of special tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.processors import TemplateProcessing

from fletcher.convert.texts import EDGES, SENTENCES
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.tokenizing import long_text as longtexts
from fletcher.runtime.tokenizing.long_text import ends_of, pieces
from fletcher.runtime.tokenizing.tokenizer import CHUNK, Tokenizer

HOSTILE = (
    *EDGES,
    *SENTENCES,
    "".join(map(chr, range(0x20, 0x250))),
    "".join(chr(code) for code in range(0x300, 0x370)),  # marks without a letter
    "[SEP][CLS] a [MASK]b [UNK]",
    "##ing un##known",
    "\u0130\u0131 ſ ẞ ŉ",  # lower case that changes length
    "\ufdfa\ufb03\u3392",
    "a\u2028b\u2029c\x0bd\x0ce",
    "\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "1\u20e3 \u00ad soft\u00adhyphen",
)


@pytest.fixture(scope="module")
def minilm(minilm_artifact: Path) -> Tokenizer:
    return Tokenizer(minilm_artifact / "tokenizer.json", 256)


@pytest.fixture(scope="module")
def reference(minilm_checkpoint: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(minilm_checkpoint)


def _rows(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.encode(texts)
    bounds = encodings.offsets.tolist()
    return [encodings.ids[start:end].tolist() for start, end in pairwise(bounds)]


def test_ids_are_transformers(minilm: Tokenizer, reference: Any) -> None:
    expected = [reference(text, truncation=True, max_length=256, padding=False)["input_ids"] for text in HOSTILE]
    assert _rows(minilm, list(HOSTILE)) == expected
    assert [_rows(minilm, [text])[0] for text in HOSTILE] == expected


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_ids_of_any_text_are_transformers(minilm: Tokenizer, reference: Any, texts: list[str]) -> None:
    assert _rows(minilm, texts) == [reference(text, padding=False)["input_ids"] for text in texts]


def test_any_number_of_texts_keeps_its_order(minilm: Tokenizer) -> None:
    texts = [f"number {index}" for index in range(2 * CHUNK + 3)]
    encodings = minilm.encode(texts)
    assert len(encodings) == len(texts)
    for index in (0, CHUNK - 1, CHUNK, 2 * CHUNK, len(texts) - 1):
        start, end = encodings.offsets[index : index + 2].tolist()
        assert encodings.ids[start:end].tolist() == _rows(minilm, [texts[index]])[0]


# Long texts -------------------------------------------------------------------------------------------------------------


def _in_pieces(backend: HuggingFaceTokenizer, text: str, size: int) -> list[str]:
    """Return the text in pieces of that size, and check that their ids are those of the expected text."""
    ends = ends_of(backend)
    assert ends is not None
    before = longtexts.PIECE
    longtexts.PIECE = size
    try:
        cut = list(pieces(text, ends))
    finally:
        longtexts.PIECE = before
    assert "".join(cut) == text
    expected = backend.encode(text, add_special_tokens=False).ids
    assert [index for piece in cut for index in backend.encode(piece, add_special_tokens=False).ids] == expected
    return cut


PARTS = st.lists(st.sampled_from([*HOSTILE, " ", ".", "\n", "[SEP]", "面", "\u0301", "\x1f", "\x85"]), max_size=40)


@given(PARTS)
@settings(max_examples=60, deadline=None)
def test_a_text_in_pieces_has_the_ids_of_the_whole(minilm: Tokenizer, parts: list[str]) -> None:
    _in_pieces(minilm._tokenizer, "".join(parts), 5)


def _trained(kind: str) -> HuggingFaceTokenizer:
    """Return a tokenizer of this family's kind, trained on `SENTENCES`."""
    special = ["<s>", "</s>", "<unk>", "<mask>"]
    if kind == "xlm-roberta":
        tokenizer = HuggingFaceTokenizer(Unigram())
        squeeze = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), squeeze])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = HuggingFaceTokenizer(BPE())
        tokenizer.normalizer = normalizers.NFC() if kind == "modernbert" else None
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "roberta")
        if kind == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
            words = pre_tokenizers.Split(Regex(QWEN2), "isolated")
            letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    if kind == "modernbert":
        tokenizer.add_tokens([AddedToken(" " * count, normalized=False) for count in range(2, 9)])
    return tokenizer


#: Pattern of words in tokenizer.json of Qwen/Qwen3-Embedding-0.6B.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = {kind: _trained(kind) for kind in ("roberta", "modernbert", "xlm-roberta", "qwen2")}


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.sampled_from([*HOSTILE, " ", "  ", "a", " b", "c ", "<mask>", "\u0301", "'s", "\n"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_words_that_begin_with_their_space_are_cut_before_it(kind: str, parts: list[str]) -> None:
    _in_pieces(KINDS[kind], "".join(parts), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_such_a_text_of_any_length_is_held_in_part(kind: str, tmp_path: Path) -> None:
    KINDS[kind].save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 64)
    text = " ".join([*SENTENCES, *EDGES]) * 60
    assert len(text) > 2 * longtexts.PIECE
    parts = [len(part) for part in tokenizer._counted_parts(text)]
    expected = KINDS[kind].encode(text, add_special_tokens=False).ids
    assert len(parts) > 2 and sum(parts) == len(expected)
    assert tokenizer.plain_ids(text).tolist() == expected


def test_a_long_text_has_transformers_ids_and_count(minilm: Tokenizer, reference: Any) -> None:
    text = " ".join(HOSTILE) * 50
    assert len(text) > 2 * longtexts.PIECE
    encodings = minilm.encode(["a", text, "b"])
    start, end = encodings.offsets[1:3].tolist()
    expected = reference(text, padding=False, verbose=False)["input_ids"]
    assert encodings.ids[start:end].tolist() == [*expected[:255], expected[-1]]
    assert 0 < encodings.dropped[1] <= len(expected) - 256 and encodings.dropped.tolist() == [
        0,
        encodings.dropped[1],
        0,
    ]
    assert minilm.encode([text], side="neither").lengths.tolist() == [len(expected)]


def _with(kind: str, **changes: Any) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer.from_str(KINDS[kind].to_str())
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_only_tokenizers_whose_words_end_at_blanks_are_cut(minilm: Tokenizer) -> None:
    assert ends_of(minilm._tokenizer)
    spaced = HuggingFaceTokenizer.from_str(minilm._tokenizer.to_str())
    spaced.add_tokens([AddedToken("two words")])
    assert not ends_of(spaced)
    assert not ends_of(HuggingFaceTokenizer(BPE()))  # without a pre-tokenizer the whole text is one word
    assert not ends_of(_with("roberta", pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)))
    assert not ends_of(_with("xlm-roberta", pre_tokenizer=pre_tokenizers.Metaspace(split=False)))
    for pattern, behavior in (("e ", "isolated"), (QWEN2, "removed"), (QWEN2.replace("L}+", "L}+ ?"), "isolated")):
        assert not ends_of(_with("qwen2", pre_tokenizer=pre_tokenizers.Split(Regex(pattern), behavior)))
    assert not ends_of(_with("roberta", normalizer=normalizers.Strip()))
    assert not ends_of(_with("roberta", normalizer=normalizers.Replace("a b", "c")))
    assert ends_of(_with("roberta", normalizer=normalizers.Replace("``", '"')))
    for token in (AddedToken("two words"), AddedToken("word "), AddedToken("word", rstrip=True)):
        other = _with("roberta")
        other.add_tokens([token])
        assert not ends_of(other)


# Special tokens of every arrangement --------------------------------------------------------------------------------------


def _save(path: Path, template: str | None, vocabulary: dict[str, int], model: Any = None) -> Path:
    tokenizer = HuggingFaceTokenizer(model or WordLevel(vocabulary, unk_token="u"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[(name, vocabulary[name]) for name in ("S", "T", "E")]
        )
    tokenizer.save(str(path))
    return path


VOCABULARY = {"u": 0, "S": 1, "T": 2, "E": 3, "a": 4, "b": 5, "c": 6, "d": 7}


@pytest.mark.parametrize("template", ["S T $A E E", "$A E", "S $A", "S T E $A", None])
@pytest.mark.parametrize("limit", [5, 6, 7, 20])
def test_truncation_is_transformers_for_every_template(tmp_path: Path, template: str | None, limit: int) -> None:
    file = _save(tmp_path / "tokenizer.json", template, VOCABULARY)
    fast: Any = transformers.PreTrainedTokenizerFast  # untyped
    reference = fast(tokenizer_file=str(file))
    for text in ("", "a", "a b c d", "a b c d " * 5, "S E a T b c d d"):
        expected = reference(text, truncation=True, max_length=limit)["input_ids"]
        encodings = Tokenizer(file, limit).encode([text])
        assert encodings.ids.tolist() == expected
        assert encodings.dropped[0] == len(reference(text)["input_ids"]) - len(expected)


def test_special_tokens_are_found_without_latin_letters(tmp_path: Path) -> None:
    """This vocabulary drops unknown letters, so the usual probe "a" has no ordinary token."""
    vocabulary = {"S": 0, "T": 1, "E": 2, "ж": 3}
    file = _save(tmp_path / "tokenizer.json", "S $A E", vocabulary, BPE(vocabulary, []))
    encodings = Tokenizer(file, 3).encode(["жжжж"])
    assert encodings.ids.tolist() == [0, 3, 2] and encodings.dropped.tolist() == [3]


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer.from_file(str(_save(tmp_path / "t.json", "S $A E", VOCABULARY)))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9, pad_id=0)
    tokenizer.save(str(tmp_path / "t.json"))
    encodings = Tokenizer(tmp_path / "t.json", 6).encode(["a b c", "a"])
    assert encodings.ids.tolist() == [1, 4, 5, 6, 3, 1, 4, 3] and encodings.offsets.tolist() == [0, 5, 8]


@pytest.mark.parametrize("limit", [3, 4, 6])
def test_a_file_says_at_which_side_texts_are_cut(tmp_path: Path, limit: int) -> None:
    tokenizer = HuggingFaceTokenizer.from_file(str(_save(tmp_path / "t.json", "S $A E", VOCABULARY)))
    tokenizer.enable_truncation(1000, direction="left")
    tokenizer.save(str(tmp_path / "t.json"))
    fast: Any = transformers.PreTrainedTokenizerFast  # untyped
    reference = fast(tokenizer_file=str(tmp_path / "t.json"))
    opened = Tokenizer(tmp_path / "t.json", limit)
    assert opened.side == "left"
    for text in ("", "a", "a b c d", "a b c d " * 5):
        expected = reference(text, truncation=True, max_length=limit)["input_ids"]
        assert opened.encode([text]).ids.tolist() == expected
        assert opened.cut(opened.encode([text], side="neither"), limit).ids.tolist() == expected
    whole = reference("a b c d")["input_ids"]
    assert opened.encode(["a b c d"], side="right").ids.tolist() == [*whole[: limit - 1], whole[-1]][:6]


def test_blanks_around_texts_are_removed_where_asked_for(tmp_path: Path) -> None:
    """As `str.strip` in sentence-transformers 5, which also takes U+001C to U+001F and U+0085 for blanks."""
    vocabulary = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = HuggingFaceTokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "t.json"))
    opened, plain = (Tokenizer(tmp_path / "t.json", 100, strip=strip) for strip in (True, False))
    for text in (" a b", "a b \n", "\x85\u3000a  b\x1c", "a", "", "  "):
        ids = plain.encode([text.strip()]).ids.tolist()
        assert opened.encode([text]).ids.tolist() == ids
        assert opened.plain_ids(text).tolist() == ids
        assert np.concatenate(list(opened.windows(text, size=50, overlap=0))).tolist() == ids
        described = opened.describe([text], special=False)[0]
        assert [token.id for token in described] == ids
        assert all(text[token.start : token.end] == token.text for token in described)
        assert opened.encode_pairs([text], [text]).ids.tolist() == plain.encode_pairs([text], [text]).ids.tolist()


def test_ids_with_gaps_are_all_in_the_vocabulary(tmp_path: Path) -> None:
    file = _save(tmp_path / "t.json", None, {"u": 0, "a": 9})
    assert Tokenizer(file, 4).vocabulary_size == 10


def test_a_limit_that_leaves_no_room_for_text_is_refused(tmp_path: Path) -> None:
    file = _save(tmp_path / "t.json", "S T $A E", VOCABULARY)
    with pytest.raises(ArtifactError, match="3 tokens leaves no room beside the tokenizer's 3 special tokens"):
        Tokenizer(file, 3)


def test_a_damaged_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"version": "1.0"')
    with pytest.raises(ArtifactError, match=r"t\.json is not a tokenizer that can be read"):
        Tokenizer(tmp_path / "t.json", 8)
    with pytest.raises(ArtifactError, match=r"missing\.json"):
        Tokenizer(tmp_path / "missing.json", 8)


def test_the_error_for_a_lone_surrogate_names_its_place(minilm: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"text 2 holds the lone surrogate U\+DC00 at character 3"):
        minilm.encode(["a", "b", "abc\udc00"])
    with pytest.raises(InputError, match="text 0 holds"):
        minilm.encode(["x " * longtexts.PIECE + "\udc00"])


def test_cased_wordpiece_in_pieces(tmp_path: Path) -> None:
    """If accents are not stripped, a mark is a separate word, and a cut may be directly before it."""
    vocabulary = {name: index for index, name in enumerate(["u", "a", "##b", ".", "面", "\u0301", "##\u0301"])}
    tokenizer = HuggingFaceTokenizer(WordPiece(vocabulary, unk_token="u"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert len(_in_pieces(tokenizer, "ab.\u0301ab 面\u0301 ab\x1fab" * 3, 1)) > 6
