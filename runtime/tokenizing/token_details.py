"""Tokens of a text with their places in it, for display only; vectors are not computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as HuggingFaceTokenizer

from ..errors import InputError

__all__ = ["TextToken", "describe_tokens"]


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token of a text.

    Attributes:
        id: id in the vocabulary.
        text: the vocabulary's spelling of a special token; the characters of the text for every other token.
        special: whether the tokenizer added it.
        start: index of its first character in the text.
        end: index behind its last character.
    """

    id: int
    text: str
    special: bool
    start: int
    end: int


def describe_tokens(
    tokenizer: HuggingFaceTokenizer, texts: Sequence[str], *, special: bool, strip: bool = False
) -> list[list[TextToken]]:
    """Return each text's tokens, without truncation.

    Args:
        tokenizer: tokenizer without truncation and padding.
        texts: any number of texts.
        special: whether the tokens that the tokenizer adds are included.
        strip: whether the blanks around a text have no tokens.

    Raises:
        InputError: a text is not a valid Unicode string.
    """
    try:
        tokenized = [text.strip() for text in texts] if strip else list(texts)
        encodings = tokenizer.encode_batch(tokenized, add_special_tokens=special)
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError("a text holds a surrogate that is not a character: send valid Unicode") from error
    first = [len(text) - len(text.lstrip()) if strip else 0 for text in texts]
    return [
        [
            TextToken(token, word if mark else text[start:end], bool(mark), before + start, before + end)
            for token, word, mark, (start, end) in zip(
                encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
            )
        ]
        for text, encoding, before in zip(tokenized, encodings, first, strict=True)
    ]
