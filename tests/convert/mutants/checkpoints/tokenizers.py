"""Small tokenizers of each kind, with the files that transformers 4 writes into a checkpoint.

The vocabularies are written by hand, so that they are the same on every machine. They hold letters, some whole words, some
capitals and accents, and CJK characters, so that a change of the normalizer changes the tokens of a text.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from ...checkpoint.tokenizer.decoder_variants import gemma, qwen

__all__ = ["TOKENIZERS", "TinyTokenizer", "save_tokenizer"]

WORDS = ("the", "cat", "query", "doc", "new", "search", "text", "token", "café", "cafe", "Café", "résumé", "The", "CAT")
CHARS = (*string.ascii_lowercase, *"ABCDERST", *string.digits, *".,!?'-:<>/[]()", *"éüèñ", *"北京是", "½", "ﬁ", "\x85")
MODEL_MAX_LENGTH = 32


@dataclass(frozen=True, slots=True)
class TinyTokenizer:
    """`TinyTokenizer`: a small tokenizer and its files.

    Attributes:
        name: class of transformers, as version 4 writes it.
        tokenizer: object of transformers.
        files: additional files of the vocabulary by name.
        keys: additional keys of tokenizer_config.json.
    """

    name: str
    tokenizer: Any
    files: Mapping[str, str]
    keys: Mapping[str, Any]


def _wordpiece(name: str, special: tuple[str, ...], limit: int | None = None, **keys: Any) -> TinyTokenizer:
    vocabulary = [*special, *CHARS, *WORDS, *(f"##{part}" for part in (*CHARS[:42], "ing", "s", "doc"))]
    ids = {token: index for index, token in enumerate([*dict.fromkeys(vocabulary)][:limit])}
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    slow = name.removesuffix("Fast")
    tokenizer = getattr(transformers, slow)(vocab=ids, **settings, **keys)
    return TinyTokenizer(name, tokenizer, {"vocab.txt": "".join(f"{token}\n" for token in ids)}, settings | keys)


def _bytes(name: str, special: tuple[str, ...], **keys: Any) -> TinyTokenizer:
    merges: dict[tuple[str, str], None] = {}
    for word in ("the", "cat", "query", "doc", "Ġthe", "Ġcat", "Ġdoc", "Ġquery", "Ġnew", "in", "ing", "er", "Ġa"):
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = dict.fromkeys([*special, *alphabet, *("".join(pair) for pair in merges)])
    ids = {token: index for index, token in enumerate(vocabulary)}
    kind: Any = transformers.RobertaTokenizer
    tokenizer = kind(vocab=ids, merges=list(merges), **keys)
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    files = {"vocab.json": json.dumps(ids, ensure_ascii=False), "merges.txt": f"#version: 0.2\n{lines}"}
    return TinyTokenizer(name, tokenizer, files, {"add_prefix_space": False, "trim_offsets": True})


def _unigram(name: str, special: tuple[str, ...], **keys: Any) -> TinyTokenizer:
    pieces: dict[str, float] = dict.fromkeys(special, 0.0)
    for index, piece in enumerate(("▁", *CHARS, *(f"▁{word}" for word in WORDS), "▁a", "ing", "▁北京")):
        pieces.setdefault(piece, -2.0 - 0.03125 * index + (6.0 if len(piece) > 2 else 0.0))
    scored = list(pieces.items())
    tokenizer = getattr(transformers, name.removesuffix("Fast"))(vocab=scored, **keys)
    return TinyTokenizer(name, tokenizer, {}, keys)


def _language(name: str, tokenizer: Tokenizer, special: Mapping[str, str], **keys: Any) -> TinyTokenizer:
    """Return the tokenizer of a language model, whose object in transformers keeps the given one as it is."""
    kind: Any = transformers.PreTrainedTokenizerFast
    return TinyTokenizer(name, kind(tokenizer_object=tokenizer, **special), {}, keys)


_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_CAMEMBERT = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>")

#: By class of transformers, as version 4 writes it.
TOKENIZERS: Mapping[str, Callable[[], TinyTokenizer]] = {
    "BertTokenizer": lambda: _wordpiece("BertTokenizer", _BERT),
    # For the restated families, whose vocabularies have 60 tokens.
    "short": lambda: _wordpiece("BertTokenizer", _BERT, 60),
    "BertTokenizerFast": lambda: _wordpiece("BertTokenizerFast", _BERT),
    "DistilBertTokenizer": lambda: _wordpiece("DistilBertTokenizer", _BERT),
    "ElectraTokenizer": lambda: _wordpiece("ElectraTokenizer", _BERT),
    "MPNetTokenizer": lambda: _wordpiece("MPNetTokenizer", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")),
    "RobertaTokenizer": lambda: _bytes("RobertaTokenizer", _ROBERTA),
    "PreTrainedTokenizerFast": lambda: _bytes(
        "PreTrainedTokenizerFast",
        _BERT[:5],
        **{f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")},
        bos_token="[CLS]",
        eos_token="[SEP]",
    ),
    "XLMRobertaTokenizer": lambda: _unigram("XLMRobertaTokenizer", _ROBERTA),
    "CamembertTokenizer": lambda: _unigram("CamembertTokenizer", _CAMEMBERT),
    "AlbertTokenizer": lambda: _unigram("AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
    "Qwen2Tokenizer": lambda: _language(
        "Qwen2Tokenizer",
        qwen(),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        add_bos_token=False,
        add_prefix_space=False,
        bos_token=None,
        errors="replace",
        split_special_tokens=False,
        unk_token=None,
    ),
    "GemmaTokenizer": lambda: _language(
        "GemmaTokenizer",
        gemma(),
        {kind: f"<{kind[:3]}>" for kind in ("bos_token", "eos_token", "pad_token", "unk_token")}
        | {"mask_token": "<mask>"},
        add_bos_token=True,
        add_eos_token=False,
        sp_model_kwargs=None,
        spaces_between_special_tokens=False,
        use_default_system_prompt=False,
    ),
}


def save_tokenizer(tiny: TinyTokenizer, folder: Path) -> None:
    """Write the tokenizer, its settings, its special tokens and the vocabulary, as transformers 4 does."""
    tokenizer = tiny.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    for name, text in tiny.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    special = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    decoder = {str(index): _added(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    settings = {
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": True,
        "model_max_length": MODEL_MAX_LENGTH,
        "tokenizer_class": tiny.name,
        **special,
        **tiny.keys,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))


def _added(token: Any) -> dict[str, Any]:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}
