"""The artifact's tokenizer file: the checkpoint's own, or one built from a BERT vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.processors import TemplateProcessing

from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.tokenizing.tokenizer import vocabulary_size

from .checkpoint import Checkpoint
from .json_files import find_json

__all__ = ["write_tokenizer"]

#: transformers' names of BERT's tokenizer, the only one that Fletcher builds from a `vocab.txt`.
BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")

_SPECIAL = (
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("cls_token", "[CLS]"),
    ("pad_token", "[PAD]"),
    ("mask_token", "[MASK]"),
)

#: Keys of tokenizer_config.json, the normalizer's attributes, and BertTokenizer's defaults.
_NORMALIZER = (
    ("do_lower_case", "lowercase", True),
    ("strip_accents", "strip_accents", None),
    ("tokenize_chinese_chars", "handle_chinese_chars", True),
)

_SAVE_FAST = (
    "Save a fast tokenizer beside the checkpoint: "
    "python -c \"import transformers as t; t.AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
)


def write_tokenizer(checkpoint: Checkpoint, path: Path, num_rows: int) -> None:
    """Write `tokenizer.json` for the artifact, without the truncation and padding that a training run may have left in it.

    Args:
        checkpoint: checkpoint with the tokenizer.
        path: file to write.
        num_rows: rows of the word embeddings.

    Raises:
        CheckpointError: Fletcher cannot read the tokenizer, or it has more ids than the embeddings have rows.
    """
    settings = find_json(checkpoint.folder / "tokenizer_config.json")
    source = checkpoint.folder / "tokenizer.json"
    vocabulary = checkpoint.folder / "vocab.txt"
    if source.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(source))
        except Exception as error:  # tokenizers raises bare Exception for every failure
            raise CheckpointError(f"{source} cannot be read as a tokenizer: {error}") from error
        _check_settings(checkpoint.folder, settings, tokenizer)
    elif vocabulary.is_file():
        tokenizer = _from_vocabulary(checkpoint.folder, vocabulary, settings)
    else:
        raise CheckpointError(f"{checkpoint.folder} has neither tokenizer.json nor vocab.txt")
    size = vocabulary_size(tokenizer)
    if size > num_rows:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has ids up to {size - 1}, the embedding table {num_rows} rows"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Not by `save`, which has a bare Exception for a full disk.
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")


def _check_settings(folder: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check that `tokenizer_config.json` agrees with a BERT `tokenizer.json`: transformers prefers the former.

    Source: transformers' `BertTokenizer.__init__`.

    Raises:
        CheckpointError: the two files disagree.
    """
    if settings.get("tokenizer_class") not in BERT_CLASSES or not isinstance(tokenizer.normalizer, BertNormalizer):
        return
    for key, attribute, default in _NORMALIZER:
        configured, actual = settings.get(key, default), getattr(tokenizer.normalizer, attribute)
        if configured != actual:
            raise CheckpointError(
                f"{folder}: tokenizer.json has {attribute} {actual}, and tokenizer_config.json {key} {configured}, which "
                "transformers would use. Make them agree in a copy of the checkpoint"
            )


def _from_vocabulary(folder: Path, vocabulary: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Return BERT's WordPiece tokenizer, built as in transformers' BertTokenizer from `vocab.txt` and the settings."""
    kind = settings.get("tokenizer_class")
    if kind not in (None, *BERT_CLASSES) or settings.get("do_basic_tokenize", True) is not True:
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and its vocab.txt is for {kind or 'a BertTokenizer'} with settings that "
            f"Fletcher does not author. {_SAVE_FAST}"
        )
    if (folder / "added_tokens.json").is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json, but added tokens beside its vocab.txt. {_SAVE_FAST}")
    try:
        # Lines end at newlines alone: a vocabulary may hold U+2028, at which `splitlines` would split.
        with vocabulary.open(encoding="utf-8") as stream:
            ids = {line.rstrip("\n"): index for index, line in enumerate(stream)}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{vocabulary} cannot be read: {error}") from error
    unknown, separator, start, padding, mask = (_token(settings.get(key), default) for key, default in _SPECIAL)
    for token in (unknown, separator, start):
        if token not in ids:
            raise CheckpointError(f"{vocabulary} lacks the special token {token!r}")
    tokenizer = Tokenizer(WordPiece(ids, unk_token=unknown))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start}:0 $A:0 {separator}:0",
        pair=f"{start}:0 $A:0 {separator}:0 $B:1 {separator}:1",
        special_tokens=[(start, ids[start]), (separator, ids[separator])],
    )
    tokenizer.add_special_tokens([token for token in (padding, unknown, start, separator, mask) if token in ids])
    return tokenizer


def _token(value: Any, default: str) -> str:
    """Return a special token of `tokenizer_config.json`: its text, or an AddedToken's fields."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
