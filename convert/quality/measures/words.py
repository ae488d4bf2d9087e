"""Fit of a tokenizer's vocabulary to texts: unknown tokens, words in pieces, truncated texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fletcher.quantize.samples import evenly_spaced

from ..results import Words

__all__ = ["describe_words", "unknown_id"]

#: Most texts whose words are counted.
MOST_TEXTS = 4000


def unknown_id(file: Path) -> int | None:
    """Return the id of the token that stands for unknown parts, or None if the tokenizer can write every text.

    Args:
        file: a `tokenizer.json`.
    """
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("byte_fallback"):
        return None
    if model.get("unk_token") is not None:
        token: int | None = Tokenizer.from_file(str(file)).token_to_id(model["unk_token"])
        return token
    unknown: int | None = model.get("unk_id")
    return unknown


def describe_words(file: Path, texts: Sequence[str], tokens: NDArray[np.int64], dropped: NDArray[np.int32]) -> Words:
    """Count unknown tokens and words that are split into pieces.

    A word is what the tokenizer's own rules divide a text into before it looks at the vocabulary.

    Args:
        file: the artifact's `tokenizer.json`.
        texts: the texts.
        tokens: tokens of each text that the model processed, (n,).
        dropped: tokens of each text that truncation cut, (n,).
    """
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = unknown_id(file)
    sample = evenly_spaced(len(texts), MOST_TEXTS).tolist()
    num_tokens = num_unknown = num_words = num_split = with_unknown = 0
    for encoding in tokenizer.encode_batch([texts[row] for row in sample], add_special_tokens=False):
        here = 0 if unknown is None else encoding.ids.count(unknown)
        pieces = np.bincount([word for word in encoding.word_ids if word is not None])
        num_tokens += len(encoding.ids)
        num_unknown += here
        with_unknown += here > 0
        num_words += int((pieces > 0).sum())
        num_split += int((pieces > 1).sum())
    whole = int(tokens.sum() + dropped.sum())
    return Words(
        texts=len(sample),
        unknown_token=None if unknown is None else tokenizer.id_to_token(unknown),
        unknown=num_unknown / max(num_tokens, 1),
        texts_with_unknown=with_unknown / len(sample),
        split_words=num_split / max(num_words, 1),
        tokens_per_word=num_tokens / max(num_words, 1),
        mean_tokens=whole / len(texts),
        truncated=float((dropped > 0).mean()),
        lost_tokens=float(dropped.sum()) / max(whole, 1),
    )
