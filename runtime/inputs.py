"""`Inputs`: the data of one request, as texts, token ids, or pairs of a query and documents."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .errors import InputError

__all__ = ["Inputs", "Pairs", "Texts", "TokenIds"]


class Texts(msgspec.Struct, frozen=True, tag="texts"):
    """Texts to tokenize.

    Attributes:
        texts: any number of texts. Each text becomes one row of the answer.
    """

    texts: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Return the texts of a sequence.

        Raises:
            InputError: `texts` is one string.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string: pass a list of strings")
        return cls(tuple(texts))


class TokenIds(msgspec.Struct, frozen=True, tag="token_ids"):
    """Texts that the caller has tokenized.

    Attributes:
        rows: token ids of each text. No prompt is added, and they are never split.
        special_tokens: whether each row has the special tokens that the model's tokenizer puts around a text. A row without
            them is refused, because it may be another tokenizer's. If False, they are added.
    """

    rows: Sequence[Sequence[int]]
    special_tokens: bool = True


class Pairs(msgspec.Struct, frozen=True, tag="pairs"):
    """Queries with documents, for models that score pairs of texts.

    Attributes:
        query: the first text of every pair, or the first text of each pair.
        documents: the second text of each pair. Each document becomes one row of the answer.
    """

    query: str | tuple[str, ...]
    documents: tuple[str, ...]

    @property
    def queries(self) -> tuple[str, ...]:
        """Return the first text of each pair."""
        return (self.query,) * len(self.documents) if isinstance(self.query, str) else self.query


Inputs = Texts | TokenIds | Pairs
