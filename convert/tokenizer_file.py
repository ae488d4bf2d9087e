"""The artefact's tokenizer file: the checkpoint's own, or made from a BERT vocabulary where it has none."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing

from fletcher.runtime.errors import CheckpointError

from .checkpoint import Checkpoint, read_json

__all__ = ["write_tokenizer"]


def write_tokenizer(checkpoint: Checkpoint, path: Path, vocabulary_size: int) -> None:
    """Writes `tokenizer.json` for the artefact, without the truncation and padding that a training run may have left in it.

    Args:
        checkpoint: where the tokenizer lies.
        path: the file to write.
        vocabulary_size: rows of the word embeddings.

    Raises:
        CheckpointError: no tokenizer that Fletcher reads, or one with more ids than the embeddings have rows.
    """
    source = checkpoint.folder / "tokenizer.json"
    vocabulary = checkpoint.folder / "vocab.txt"
    if source.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(source))
        except Exception as error:  # tokenizers raises bare Exception for every failure
            raise CheckpointError(f"{source} is no tokenizer that can be read: {error}") from error
    elif vocabulary.is_file():
        tokenizer = _from_vocabulary(checkpoint.folder, vocabulary)
    else:
        raise CheckpointError(f"{checkpoint.folder} has neither tokenizer.json nor vocab.txt")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocabulary_size:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has ids up to {largest}, the embedding table {vocabulary_size} rows"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(path), pretty=False)


def _from_vocabulary(folder: Path, vocabulary: Path) -> Tokenizer:
    """BERT's WordPiece, as transformers' BertTokenizer builds it from `vocab.txt` and `tokenizer_config.json`."""
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {token: index for index, token in enumerate(lines)}
    unknown, separator, start = (settings.get(key, default) for key, default in _SPECIAL)
    for token in (unknown, separator, start):
        if token not in ids:
            raise CheckpointError(f"{vocabulary} lacks the special token {token!r}")
    tokenizer = Tokenizer(WordPiece(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
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
    tokenizer.add_special_tokens([token for token in ("[PAD]", unknown, start, separator, "[MASK]") if token in ids])
    return tokenizer


_SPECIAL = (("unk_token", "[UNK]"), ("sep_token", "[SEP]"), ("cls_token", "[CLS]"))
