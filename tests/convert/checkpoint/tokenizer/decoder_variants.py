"""Small checkpoints with the tokenizers of language models: Qwen2, Llama, Gemma, with settings that change their ids.

    python -m tests.convert.checkpoint.tokenizer.decoder_variants FILE

writes digests of the ids that the installed transformers gives for every variant. This command, with transformers 4.57.3,
wrote `decoder_ids_of_transformers_4.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from .variants import LETTERS, record

__all__ = ["VARIANTS", "gemma", "qwen", "write_variant"]

#: Qwen's words, of tokenizer.json of Qwen/Qwen3-Embedding-0.6B.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("t", "h"), ("th", "e")]


def _byte_level(*special: str) -> Tokenizer:
    """Return a byte-level BPE with special tokens after its vocabulary, as Qwen and Llama 3 have them."""
    merges = [*MERGES, ("Ġ", "hello"), ("Ġ", "the")]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(first + second for first, second in merges)]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _pieces(*special: str) -> Tokenizer:
    """Return a BPE of SentencePiece with bytes for unknown characters, as Llama 2 and Gemma have it."""
    merges = [*MERGES, ("▁", "hello"), ("▁", "the")]
    singles = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *dict.fromkeys(LETTERS)]
    tokens = dict.fromkeys([*special, *singles, *(first + second for first, second in merges)])
    model = BPE(
        {token: number for number, token in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _ends(tokenizer: Tokenizer, first: str = "", last: str = "") -> Tokenizer:
    """Return the tokenizer with tokens around a text."""
    special = [(token, tokenizer.token_to_id(token)) for token in (first, last) if token]
    single = [piece for piece in (first, "$A:0", last) if piece]
    pair = [*single, *(piece for piece in (first, "$B:1", last) if piece)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def qwen() -> Tokenizer:
    """Return the tokenizer of Qwen3-Embedding with other merges."""
    return _ends(_byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"), last="<|endoftext|>")


def _llama() -> Tokenizer:
    tokenizer = _ends(_pieces("<unk>", "<s>", "</s>"), first="<s>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _llama_metaspace() -> Tokenizer:
    tokenizer = _ends(_pieces("<unk>", "<s>", "</s>"), first="<s>")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def gemma() -> Tokenizer:
    """Return a tokenizer of Gemma with other merges."""
    tokenizer = _ends(_pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), first="<bos>")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


_QWEN = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_LLAMA = {"tokenizer_class": "LlamaTokenizer", "pad_token": "<unk>"}
_GEMMA = {"tokenizer_class": "GemmaTokenizer"}
_DOC = {"content": "<doc>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}

#: By name: tokenizer.json, model type, tokenizer_config.json.
VARIANTS: Mapping[str, tuple[Any, str, Mapping[str, Any]]] = {
    "qwen3": (qwen, "qwen3", {**_QWEN, "bos_token": None, "add_prefix_space": False, "add_bos_token": False}),
    "qwen3/fast": (qwen, "qwen3", {**_QWEN, "tokenizer_class": "Qwen2TokenizerFast"}),
    "qwen3/generic": (qwen, "qwen3", {**_QWEN, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "qwen3/no_class": (qwen, "qwen3", {"pad_token": "<|endoftext|>"}),
    "qwen3/added": (qwen, "qwen3", {**_QWEN, "additional_special_tokens": ["<doc>"], "bos_token": "<|im_start|>"}),
    "qwen3/decoder": (qwen, "qwen3", {**_QWEN, "added_tokens_decoder": {"270": _DOC}}),
    "qwen3/space": (qwen, "qwen3", {**_QWEN, "add_prefix_space": True}),
    "qwen3/null_space": (qwen, "qwen3", {**_QWEN, "add_prefix_space": None}),
    "qwen3/flags": (qwen, "qwen3", {**_QWEN, "add_eos_token": False, "add_bos_token": True}),
    "qwen3/words": (lambda: _with_words(qwen()), "qwen3", _QWEN),
    "qwen2": (qwen, "qwen2", _QWEN),
    "qwen2/generic": (lambda: _with_words(qwen()), "qwen2", {**_QWEN, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "llama": (_llama, "llama", _LLAMA),
    "llama/metaspace": (_llama_metaspace, "llama", _LLAMA),
    "llama/legacy": (_llama, "llama", {**_LLAMA, "legacy": True}),
    "llama/not_legacy": (_llama_metaspace, "llama", {**_LLAMA, "legacy": False}),
    "llama/ends": (_llama, "llama", {**_LLAMA, "add_bos_token": False, "add_eos_token": True}),
    "llama/null_space": (_llama, "llama", {**_LLAMA, "add_prefix_space": None}),
    "llama/generic": (_llama, "llama", {**_LLAMA, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "llama/bytes": (qwen, "llama", {**_QWEN, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "llama/bytes_as_llama": (
        lambda: _ends(_byte_level("<unk>", "<s>", "</s>"), first="<s>"),
        "llama",
        {**_LLAMA, "tokenizer_class": "LlamaTokenizerFast"},
    ),
    "mistral": (_llama, "mistral", {**_LLAMA, "add_eos_token": True}),
    "mistral/no_class": (_llama, "mistral", {"pad_token": "<unk>"}),
    "eurobert": (qwen, "eurobert", {**_QWEN, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "gemma": (gemma, "gemma", _GEMMA),
    "gemma3": (gemma, "gemma3_text", {**_GEMMA, "tokenizer_class": "GemmaTokenizerFast"}),
    "gemma3/no_class": (gemma, "gemma3_text", {}),
    "gemma3/ends": (gemma, "gemma3_text", {**_GEMMA, "add_eos_token": True}),
    "gemma3/added": (gemma, "gemma3_text", {**_GEMMA, "added_tokens_decoder": {"400": _DOC}}),
    "gemma3/generic": (_llama_metaspace, "gemma3_text", {"tokenizer_class": "PreTrainedTokenizerFast"}),
}


def _with_words(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with other words than Qwen's."""
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens([AddedToken("newtoken")])
    return tokenizer


def write_variant(name: str, folder: Path) -> Path:
    """Write a variant and return its folder."""
    make, model_type, settings = VARIANTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    make().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


if __name__ == "__main__":
    record(Path(sys.argv[1]), VARIANTS, write_variant)
