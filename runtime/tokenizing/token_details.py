"""A text's tokens with their place in it, for people who want to see them; nothing here is on the way to a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as HuggingFaceTokenizer

from ..errors import InputError

__all__ = ["TextToken", "describe_tokens"]


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token.

    Attributes:
        id: its number in the vocabulary.
        text: the vocabulary's spelling of a special token, the text's own of every other one.
        special: whether the tokenizer added it.
        start: its first character's place in the text.
        end: that behind its last one.
    """

    id: int
    text: str
    special: bool
    start: int
    end: int


def describe_tokens(tokenizer: HuggingFaceTokenizer, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
    """Each text's tokens, untruncated.

    Args:
        tokenizer: without truncation and padding.
        texts: any number.
        special: whether with those that the tokenizer adds.

    Raises:
        InputError: a text that is no valid Unicode string.
    """
    try:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=special)
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError("a text holds a surrogate that is no character: send valid Unicode") from error
    return [
        [
            TextToken(token, word if mark else text[start:end], bool(mark), start, end)
            for token, word, mark, (start, end) in zip(
                encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
            )
        ]
        for text, encoding in zip(texts, encodings, strict=True)
    ]
