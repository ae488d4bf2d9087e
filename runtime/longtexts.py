"""Cutting a very long text into pieces that a tokenizer treats as it would the whole. It knows nothing of ids.

The tokenizers library keeps a split, with its own allocations, for every word of the text at once: 10 MB of full stops
took 5 GB. Pieces bound that, and are tokenised on several threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

__all__ = ["PIECE", "cuts_safely", "pieces"]

#: Characters of a piece, about; texts up to this length are never cut.
PIECE = 1 << 16

# BERT's pre-tokenizer ends a word at each of these (the Chinese ones by the normalizer's own spaces around them), so nothing
# can span a cut behind one. Brackets are not among them, as special tokens like [SEP] hold them, and of the blanks only
# those that its normalizer does not take for control characters and remove.
_ENDS = re.compile(r"[ \t\n\r.,;:!?\u4e00-\u9fff]")


def cuts_safely(tokenizer: Tokenizer) -> bool:
    """Whether `pieces` may be used: BERT's normalizer and words, and no added token that a cut could fall into."""
    return (
        isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(tokenizer.normalizer, BertNormalizer)
        and bool(tokenizer.normalizer.handle_chinese_chars)
        and not any(_ENDS.search(token.content) for token in tokenizer.get_added_tokens_decoder().values())
    )


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about `PIECE` characters, each ending where a word ends; longer where no word ends."""
    start = 0
    while len(text) - start > PIECE:
        end = _ENDS.search(text, start + PIECE - 1)
        if end is None:
            break
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]
