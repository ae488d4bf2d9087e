"""`Inputs`: the data of one request, as texts, token ids, or pairs of a query and documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from fletcher.model_zoo.card import Output

from .errors import InputError
from .tokenizing.cut_text import LONG

__all__ = ["Include", "IncludeField", "Inputs", "Pairs", "Requested", "Texts", "TokenIds", "has_long", "with_included"]


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


def has_long(inputs: Inputs) -> bool:
    """Return whether a text is so long that its dropped tokens may not all be counted."""
    if isinstance(inputs, TokenIds):
        return False
    texts = inputs.texts if isinstance(inputs, Texts) else (*inputs.queries, *inputs.documents)
    return max(map(len, texts), default=0) > LONG


#: A requested output, or several that one pass of the model gives.
Requested = Output | tuple[Output, ...]

#: Outputs that a request for vectors can include, from models that give several (BGE-M3).
Include = Literal["sparse", "token_vectors", "all"]

IncludeField = Annotated[
    Include | None,
    msgspec.Meta(
        description="Further outputs of the same pass, from models that have them (BGE-M3): `sparse` (weights of the "
        "vocabulary's tokens), `token_vectors`, or `all`. Default: vectors alone."
    ),
]


def with_included(include: Include | None) -> Requested:
    """Return the outputs of a request for vectors, which may include others."""
    if include is None:
        return "vectors"
    return ("vectors", "sparse", "token_vectors") if include == "all" else ("vectors", include)
