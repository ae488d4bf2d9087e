"""`do_lower_case` of sentence_bert_config.json: texts are lowercased before the tokenizer's own normalization."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, normalizers

__all__ = ["lowercase_first"]


def lowercase_first(path: Path) -> None:
    """Put lowercasing before the normalizer of a tokenizer file, unless it has that step.

    Source: sentence-transformers' `Transformer.__init__` and `_has_lowercase` (base/modules/transformer.py).

    Args:
        path: the tokenizer file, which is written again.
    """
    tokenizer = Tokenizer.from_file(str(path))
    normalizer = tokenizer.normalizer
    steps = [] if normalizer is None else [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = [normalizer[index] for index in range(len(normalizer))]
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
