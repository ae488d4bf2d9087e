"""Small checkpoints whose tokenizer files disagree with tokenizer.json, for every class of the supported families.

They are written with `tokenizers` alone, so that any version of transformers can compute their ids:

    python tests/convert/checkpoint/tokenizer/variants.py FILE

writes digests of the ids that the installed transformers gives for every variant. This command, with transformers 4.57.6,
wrote `ids_of_transformers_4.json`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

__all__ = [
    "FAMILIES",
    "LIMIT",
    "PAIRS",
    "PAIR_LIMIT",
    "TEXTS",
    "VARIANTS",
    "digest",
    "record",
    "reference",
    "result",
    "write_variant",
]

ASCII = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.!?-'\"#$<>[]/_"
LETTERS = f"{ASCII}éÉñçßİıΣσς中文字あア한\u0301\u2028\x85"
WORDS = ("the", "text", "hello", "Hello", "token", "doc", "new", "world", "café", "cafe", "un", "ing")

#: Difficult texts: capitals, accents, blanks of all kinds at both ends, special tokens inside words, unknown characters.
TEXTS = (
    "",
    " ",
    "Hello world",
    " Hello",
    "Hello ",
    "  Hello   world  ",
    "the TEXT of Café CAFE\u0301 É İstanbul ΟΔΟΣ ß",
    "中文字 a中b あアhello 한",
    "a\x85b \u2028c\xa0d\u3000e\u200bf\ufeffg\x1ch\x0bi\x0cj\tk\r\nl",
    "hello\x85",
    "\x85hello",
    "hello \u3000",
    "\t\nhello\n",
    "x" * 120,
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "<doc> a text",
    "a<doc>b",
    "a <doc> b",
    "<DOC>",
    "[MASK] a [mask] b[MASK]c",
    "a <mask> b<mask>c <MASK>",
    " <mask>",
    "[CLS]a[SEP]",
    "<s>a</s> <pad><unk>",
    "[PAD][UNK][unused]",
    "newtoken NEWTOKEN anewtokenb a newtoken b",
    "<img> <s>NOTUSED </s>NOTUSED",
    "unknown \U0001f44d\U0001f3fd \ue000 \U000e0041",
    "don't ``quote'' ''x",
    "ﬁ ﷺ ㎒ Ω K ½ ²",
    "▁hello ▁ world",
    "e\u0301 n\u0303 \u0301alone",
    "hello" * 3,
    "A-B_C/D.E,F!G?H",
    "a\x00b\x01c\x7fd",
)

#: Pairs of texts, and the lengths to which texts and pairs are truncated.
PAIRS = tuple(zip(TEXTS, TEXTS[2:], strict=False))
LIMIT, PAIR_LIMIT = 7, 12

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ROBERTA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}

#: Small SentencePiece table of six rules: full-width letters, U+00A0 and U+0085 as spaces, a ligature, E acute.
CHARSMAP = (
    "eNod02WQF0QYB+Cdv8L4QYcDcTxpkEEJR5oDD+QIwUBSKWnu4BAQBBEJuQNPygBBuk5B6ijphju6JA1CQuJAUMqmnr87+8y7s/vOftnfhoeD8V"
    "BIeyKEzNhIyIqPRDdSRj4WQk41Iy4SUnOE8Ii1kxTtKelPhfCoplx8lTsEM8TwOHlwVcjLk2zIjgTtIZb85KMgBShMIYpShKcpxqzUEIqrz1CC"
    "kjxLaUrxHGV4nt9jIqGcWpYKlKcSFalCZaoSxwtUozrxvEgNEqhJbWpRlzrU4yVepj6v8goNeI2GvE5jGtGUJrxBM5rzJi1pQWta0Ya3aEdbOt"
    "CeTnQkkc50IYlkuvI23ehBd96hJ73pRR/e5T368j79+ID+DGQAgxnEED4kNfrgDGMoaXzEcD5mJCMYzSg+5RM+5zPGMoZxfMGXjGciE5jMJKYy"
    "helMYyYzSI++OV9H88QcZjOXb5jPPBaygEVksITFLGMpy/mWlaxgNatYyxrWs46N0VyymU1sZQtZZLKdbexkB7vZxV72sJ99fMcBDnGQIxzmGE"
    "f5ge/5iR85wXFOcZLT/MxZzvAL57jAeS5xkctk8ytXuMbVaPb5jRtc5xY3+YPb/MWf/MPf/Me/3OUO97n3/99LkPvEkJQcHgAsQIzb"
)

Folder = Callable[[Path], None]


def _save(folder: Path, tokenizer: Tokenizer, model_type: str, **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", {"model_type": model_type, **config})


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def _wordpiece(special: tuple[str, ...]) -> dict[str, int]:
    tokens = dict.fromkeys([*special, *LETTERS, *WORDS, "##ing", *(f"##{letter}" for letter in LETTERS)])
    return {token: number for number, token in enumerate(tokens)}


def bert(folder: Path, model_type: str = "bert", **normalizer: Any) -> None:
    """Write an uncased BERT."""
    vocabulary = _wordpiece(BERT_SPECIAL)
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**{"lowercase": True, "strip_accents": None, **normalizer})
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(BERT_SPECIAL))
    _save(folder, tokenizer, model_type)


def mpnet(folder: Path) -> None:
    """Write an uncased MPNet."""
    vocabulary = _wordpiece(("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"))
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "[UNK]"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    _save(folder, tokenizer, "mpnet")


def _byte_level() -> tuple[dict[str, int], list[tuple[str, str]]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "hello"),
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
    ]
    tokens = dict.fromkeys([*ROBERTA_SPECIAL, *alphabet, *(first + second for first, second in merges)])
    return {token: number for number, token in enumerate(tokens)}, merges


def roberta(folder: Path, model_type: str = "roberta", *, space: bool = False) -> None:
    """Write a RoBERTa."""
    vocabulary, merges = _byte_level()
    tokenizer = Tokenizer(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, space)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    _save(folder, tokenizer, model_type)


def _pieces(first: tuple[str, ...], last: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    pieces = ["▁", *LETTERS, *(f"▁{word}" for word in WORDS), "ing", "hell"]
    tokens = dict.fromkeys([*first, *pieces, *last])
    return [(token, 0.0 if token in (*first, *last) else -1.0 - number / 100) for number, token in enumerate(tokens)]


def _sentencepiece(steps: list[Any], *, unknown: int, pieces: list[tuple[str, float]]) -> Tokenizer:
    tokenizer = Tokenizer(Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(_several_blanks(), "▁")])
    return tokenizer


def _several_blanks() -> Any:
    from tokenizers import Regex

    return Regex(" {2,}")


def xlm_roberta(folder: Path, model_type: str = "xlm-roberta") -> None:
    """Write an XLM-RoBERTa as transformers 4 converts it from SentencePiece."""
    tokenizer = _sentencepiece([normalizers.NFKC()], unknown=3, pieces=_pieces(ROBERTA_SPECIAL[:4], ("<mask>",)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    _save(folder, tokenizer, model_type)


def camembert(folder: Path) -> None:
    """Write a CamemBERT."""
    first = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    tokenizer = _sentencepiece([normalizers.NFKC()], unknown=3, pieces=_pieces(first, ("<mask>",)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 5), ("</s>", 6)]
    )
    tokenizer.add_special_tokens(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    _save(folder, tokenizer, "camembert")


def albert(folder: Path) -> None:
    """Write an ALBERT as transformers 4 converts it."""
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.NFKC(),
    ]
    tokenizer = _sentencepiece(steps, unknown=1, pieces=_pieces(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(["<pad>", "<unk>", "[CLS]", "[SEP]"])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    _save(folder, tokenizer, "albert")


def modernbert(folder: Path) -> None:
    """Write a ModernBERT: byte-level, with BERT's names of special tokens."""
    vocabulary, merges = _byte_level()
    vocabulary |= {token: len(vocabulary) + number for number, token in enumerate(BERT_SPECIAL)}
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    _save(folder, tokenizer, "modernbert")


FAMILIES: Mapping[str, tuple[Folder, str]] = {
    "bert": (bert, "BertTokenizer"),
    "cased": (lambda folder: bert(folder, lowercase=False), "BertTokenizer"),
    "distilbert": (lambda folder: bert(folder, "distilbert"), "DistilBertTokenizer"),
    "electra": (lambda folder: bert(folder, "electra"), "ElectraTokenizer"),
    "mpnet": (mpnet, "MPNetTokenizer"),
    "roberta": (roberta, "RobertaTokenizer"),
    "roberta_space": (lambda folder: roberta(folder, space=True), "RobertaTokenizer"),
    "xlm_roberta": (xlm_roberta, "XLMRobertaTokenizer"),
    "camembert": (camembert, "CamembertTokenizer"),
    "albert": (albert, "AlbertTokenizer"),
    "modernbert": (modernbert, "PreTrainedTokenizerFast"),
}

DOC = {"content": "<doc>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
NEW = {**DOC, "content": "newtoken", "normalized": True, "special": False}
STRIPPING = {**DOC, "lstrip": True, "rstrip": True}
MASK = {"__type": "AddedToken", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}

#: Contents of tokenizer_config.json, by name; CLASS is replaced by the family's class.
SETTINGS: Mapping[str, Mapping[str, Any] | None] = {
    "no_config": None,
    "class": {"tokenizer_class": "CLASS"},
    "fast_class": {"tokenizer_class": "CLASSFast"},
    "generic": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "cased": {"do_lower_case": False},
    "cased_class": {"do_lower_case": False, "tokenizer_class": "CLASS"},
    "lower_class": {"do_lower_case": True, "strip_accents": False, "tokenizer_class": "CLASS"},
    "strip_accents": {"do_lower_case": False, "strip_accents": True, "keep_accents": True},
    "chinese": {"tokenize_chinese_chars": False, "keep_accents": True},
    "prefix_space": {"add_prefix_space": True, "tokenizer_class": "CLASS"},
    "no_prefix_space": {"add_prefix_space": False, "trim_offsets": False, "tokenizer_class": "CLASS"},
    "decoder": {"added_tokens_decoder": {"900": DOC, "901": NEW}, "tokenizer_class": "CLASS"},
    "decoder_generic": {"added_tokens_decoder": {"900": DOC, "901": NEW}, "tokenizer_class": "PreTrainedTokenizerFast"},
    "decoder_stripping": {"added_tokens_decoder": {"9": STRIPPING}},
    "additional": {"additional_special_tokens": ["<doc>", "<img>"], "tokenizer_class": "CLASS"},
    "image": {"image_token": "<img>", "tokenizer_class": "CLASS"},
    "masks": {"mask_token": {**MASK, "content": "<mask>"}, "tokenizer_class": "CLASS"},
    "plain_mask": {"mask_token": "<mask>", "unk_token": "<unk>"},
    "other_ends": {"cls_token": "the", "sep_token": "text", "bos_token": "h", "eos_token": "e"},
    "left": {"truncation_side": "left", "model_max_length": 8},
    "padding": {"padding_side": "left", "pad_token": "<doc>"},
    "no_types": {"model_input_names": ["input_ids", "attention_mask"]},
    "types": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    "extra_list": {"extra_special_tokens": ["<doc>", {**MASK, "content": "<img>"}], "tokenizer_class": "CLASS"},
    "extra_object": {"extra_special_tokens": {"doc_token": "<doc>"}, "additional_special_tokens": ["<img>"]},
    "specific": {"model_specific_special_tokens": {"doc_token": "<doc>"}, "image_token": "<img>"},
    "empty_lists": {"additional_special_tokens": [], "extra_special_tokens": []},
    "null_lists": {"additional_special_tokens": None, "extra_special_tokens": None},
    "null_tokens": {"bos_token": None, "mask_token": None, "tokenizer_class": "CLASS"},
    "null_ends": {"cls_token": None, "eos_token": None, "tokenizer_class": "CLASS"},
    "null_settings": {"do_lower_case": None, "tokenizer_class": "CLASS"},
    "text_settings": {"add_prefix_space": "true", "tokenize_chinese_chars": 1},
    "mask_without_type": {"mask_token": {**DOC, "content": "<mask>"}},
    "other_class": {"tokenizer_class": "BertTokenizer"},
    "another_class": {"tokenizer_class": "XLMRobertaTokenizerFast"},
    "third_class": {"tokenizer_class": "RobertaTokenizer"},
    "fourth_class": {"tokenizer_class": "AlbertTokenizer"},
    "decoder_of_texts": {"added_tokens_decoder": {"900": "<doc>"}},
    "decoder_within": {"added_tokens_decoder": {"0": {**DOC, "content": "hello"}, "7": NEW}},
    "decoder_empty": {"added_tokens_decoder": {}, "tokenizer_class": "CLASS"},
    "doubled": {"cls_token": "<doc>", "sep_token": "<doc>", "bos_token": "<img>", "eos_token": "<img>"},
}


def _with(family: str, settings: Mapping[str, Any] | None) -> Folder:
    def write(folder: Path) -> None:
        save, name = FAMILIES[family]
        save(folder)
        if settings is not None:
            text = json.dumps(settings).replace("CLASS", name)
            (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    return write


def _files(family: str, files: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Folder:
    def write(folder: Path) -> None:
        _with(family, settings)(folder)
        for name, content in files.items():
            _write(folder / name, content)

    return write


def _changed(family: str, settings: Mapping[str, Any] | None = None, **sections: Any) -> Folder:
    """Change sections of tokenizer.json."""

    def write(folder: Path) -> None:
        _with(family, settings)(folder)
        file = folder / "tokenizer.json"
        description = json.loads(file.read_text(encoding="utf-8"))
        for name, value in sections.items():
            description[name] = {**description[name], **value} if name == "model" else value
        _write(file, description)

    return write


def _vocabulary_alone(family: str, settings: Mapping[str, Any] | None = None, **files: Any) -> Folder:
    def write(folder: Path) -> None:
        _files(family, files, settings)(folder)
        file = folder / "tokenizer.json"
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        file.unlink()
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        if model["type"] == "WordPiece":
            (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8", newline="\n")
        else:
            _write(folder / "vocab.json", model["vocab"])
            lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
            (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")

    return write


#: Pieces of SentencePiece that a family's vocabulary replaces: how many of its own it has before and after the others, and
#: name, file and number of the unknown piece of the model.
_MODELS: Mapping[str, tuple[int, int, tuple[tuple[str, int], ...], str, int]] = {
    "xlm_roberta": (4, 1, (("<unk>", 2), ("<s>", 3), ("</s>", 3)), "sentencepiece.bpe.model", 0),
    "camembert": (7, 1, (("<unk>", 2), ("<s>", 3), ("</s>", 3)), "sentencepiece.bpe.model", 0),
    "albert": (
        5,
        0,
        (("<pad>", 3), ("<unk>", 2), ("[CLS]", 3), ("[SEP]", 3), ("[MASK]", 4)),
        "spiece.model",
        1,
    ),
}


def _number(value: int) -> bytes:
    low = value & 127
    return bytes([low]) if value < 128 else bytes([low | 128]) + _number(value >> 7)


def _message(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _sentencepiece_alone(family: str, settings: Mapping[str, Any] | None = None, *, table: bool = True) -> Folder:
    """Write a SentencePiece model instead of tokenizer.json, as sentencepiece_model.proto describes it."""

    def write(folder: Path) -> None:
        _with(family, settings)(folder)
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        (folder / "tokenizer.json").unlink()
        before, after, first, name, unknown = _MODELS[family]
        others = [(text, score, 1) for text, score in vocabulary[before : len(vocabulary) - after]]
        pieces = [*((text, 0.0, kind) for text, kind in first), *others, ("▁1,", -0.5, 1), ("▁wor", -9.0, 4)]
        content = b""
        for text, score, kind in pieces:
            fields = _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _number(kind)
            content += _message(1, fields)
        content += _message(2, b"\x18\x01" + _number(40 << 3) + _number(unknown))
        charsmap = zlib.decompress(base64.b64decode(CHARSMAP)) if table else b""
        content += _message(3, _message(1, b"nmt_nfkc") + _message(2, charsmap))
        (folder / name).write_bytes(content)

    return write


def _class_in_config(family: str) -> Folder:
    def write(folder: Path) -> None:
        _with(family, {})(folder)
        file = folder / "config.json"
        _write(file, {**json.loads(file.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"})

    return write


def _charsmap(family: str, settings: Mapping[str, Any] | None = None) -> Folder:
    """Put the table before the normalizer's other steps."""

    def write(folder: Path) -> None:
        _with(family, settings)(folder)
        description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        table = base64.b64encode(zlib.decompress(base64.b64decode(CHARSMAP))).decode()
        step = {"type": "Precompiled", "precompiled_charsmap": table}
        description["normalizer"]["normalizers"].insert(0, step)
        _write(folder / "tokenizer.json", description)

    return write


def _all() -> Iterator[tuple[str, Folder]]:
    for family in FAMILIES:
        for name, settings in SETTINGS.items():
            if (family, name) == ("modernbert", "fast_class"):
                continue  # a class of this name does not exist
            yield f"{family}/{name}", _with(family, settings)
        specials = {"special_tokens_map.json": {"additional_special_tokens": ["<doc>"], "unk_token": "the"}}
        yield f"{family}/special_map", _files(family, specials)
        objects = {"special_tokens_map.json": {"mask_token": {**DOC, "content": "<mask>", "rstrip": True}}}
        yield f"{family}/special_map_objects", _files(family, objects, {"tokenizer_class": "CLASS"})
        decoder = {"added_tokens_decoder": {"900": DOC}, "tokenizer_class": "CLASS"}
        yield f"{family}/special_map_ignored", _files(family, specials, decoder)
        added = {"added_tokens.json": {"<doc>": 900, "newtoken": 901}}
        lists = {"special_tokens_map.json": {"additional_special_tokens": [DOC, "<img>"], "pad_token": "<pad>"}}
        yield f"{family}/special_map_lists", _files(family, lists, {"additional_special_tokens": ["<img>"]})
        extra = {"special_tokens_map.json": {"extra_special_tokens": [DOC, "<img>"]}}
        yield f"{family}/special_map_extra", _files(family, extra, {"extra_special_tokens": ["newtoken"]})
        both = {"special_tokens_map.json": {"cls_token": "the", "bos_token": None}}
        yield f"{family}/special_map_both", _files(family, both, {"cls_token": "text", "tokenizer_class": "CLASS"})
        yield f"{family}/class_in_config", _class_in_config(family)
        yield f"{family}/added", _files(family, {**added, **specials})
        template = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
        sequence = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
        bare = {**template, "single": [sequence[0]], "pair": [*sequence]}
        yield f"{family}/no_post_processor", _changed(family, post_processor=None)
        yield f"{family}/bare_post_processor", _changed(family, {"tokenizer_class": "CLASS"}, post_processor=bare)
        left = {"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
        yield f"{family}/left_json", _changed(family, truncation=left)
        yield f"{family}/left_json_right", _changed(family, {"truncation_side": "right"}, truncation=left)
        pad = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
        yield f"{family}/padding_json", _changed(family, padding={**pad, "pad_type_id": 0, "pad_token": "<img>"})
    for family in ("xlm_roberta", "camembert", "albert"):
        yield f"{family}/charsmap", _charsmap(family)
        yield f"{family}/charsmap_cased", _charsmap(family, SETTINGS["strip_accents"])
        yield f"{family}/charsmap_no_prefix_space", _charsmap(family, SETTINGS["no_prefix_space"])
        yield f"{family}/sentencepiece", _sentencepiece_alone(family)
        yield f"{family}/sentencepiece_no_table", _sentencepiece_alone(family, table=False)
        for name in ("class", "additional", "decoder_within", "strip_accents", "plain_mask", "no_prefix_space"):
            yield f"{family}/sentencepiece_{name}", _sentencepiece_alone(family, SETTINGS[name])
    for family in ("bert", "distilbert", "electra", "mpnet"):
        yield f"{family}/short_words", _changed(family, model={"max_input_chars_per_word": 4})
        yield f"{family}/no_normalizer", _changed(family, normalizer={"type": "Lowercase"})
    for family in ("bert", "distilbert", "electra", "mpnet", "roberta"):
        yield f"{family}/vocabulary", _vocabulary_alone(family)
        yield f"{family}/vocabulary_cased", _vocabulary_alone(family, SETTINGS["cased_class"])
        yield f"{family}/vocabulary_added", _vocabulary_alone(family, SETTINGS["decoder"])
        yield f"{family}/vocabulary_prefix_space", _vocabulary_alone(family, SETTINGS["prefix_space"])


VARIANTS: Mapping[str, Folder] = dict(_all())


def write_variant(name: str, folder: Path) -> Path:
    """Write a variant and return its folder."""
    VARIANTS[name](folder)
    return folder


def result(ids: list[int], types: list[int] | None) -> list[list[int]]:
    """Return the ids and token types of a text or a pair; models take 0 for types that the tokenizer does not give."""
    return [ids, types or [0] * len(ids)]


def digest(rows: list[list[list[int]]]) -> str:
    """Return a digest of the results of all texts and pairs."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def reference(folder: Path) -> list[list[list[int]]] | None:
    """Return the results of the installed transformers: texts, truncated texts, pairs; None if it refuses the variant."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        outputs = [tokenizer(text) for text in TEXTS]
        outputs += [tokenizer(text, truncation=True, max_length=LIMIT) for text in TEXTS]
        outputs += [tokenizer(*pair, truncation=True, max_length=PAIR_LIMIT) for pair in PAIRS]
    except Exception:  # noqa: BLE001  whatever the class raises
        return None
    return [result(row["input_ids"], row.get("token_type_ids")) for row in outputs]


def record(file: Path, names: Iterable[str], write: Callable[[str, Path], Path]) -> None:
    """Write digests of the results that the installed transformers gives for variants.

    Args:
        file: the file.
        names: names of the variants.
        write: writes a variant into a folder, and returns it.
    """
    import transformers

    recorded: dict[str, str | None] = {"transformers": transformers.__version__}
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            rows = reference(write(name, Path(place) / "checkpoint"))
        recorded[name] = None if rows is None else digest(rows)
    file.write_text(json.dumps(recorded, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]), VARIANTS, write_variant)
