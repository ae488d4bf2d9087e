"""`Tiny`: a tiny model of transformers, or a restatement, with what a test of a target needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fletcher.runtime.session.session import Session

from ..families.restated import Restated
from ..verify.parity import Parity, SpecialTokens, Vectors, save_checkpoint

__all__ = ["Tiny"]


@dataclass(frozen=True, slots=True)
class Tiny:
    """`Tiny`: a tiny model.

    Attributes:
        family: name of the family in `describe`.
        model: model of transformers, or a restatement.
        longest: largest number of tokens of a text.
        tokens: special tokens.
        vocabulary: size of the vocabulary; all ids are smaller.
        hidden: width of a token vector.
        tolerance: largest difference of an element from the model.
        known: the model's vectors of texts by their ids, see `Parity`.
    """

    family: str
    model: Any
    longest: int
    tokens: SpecialTokens
    vocabulary: int
    hidden: int
    tolerance: float = 1e-5
    known: dict[tuple[int, ...], Vectors] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write the checkpoint, with a tokenizer if the model is transformers'."""
        if isinstance(self.model, Restated):
            return self.model.save(folder)
        return save_checkpoint(self.model, folder, self.tokens)

    def parity(self, session: Session, **options: Any) -> Parity:
        """Return the model together with a session; every result knows the vectors that another one computed.

        Args:
            session: session of Fletcher.
            options: other fields of `Parity`.
        """
        options = {"tolerance": self.tolerance} | options
        return Parity(self.model, session, self.tokens, self.vocabulary, self.longest, known=self.known, **options)
