"""`Tiny`: a tiny model of transformers, or a restatement, with what a test of a target needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..families.restated import Restated
from ..verify.parity import SpecialTokens, save_checkpoint

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
    """

    family: str
    model: Any
    longest: int
    tokens: SpecialTokens
    vocabulary: int
    hidden: int
    tolerance: float = 1e-5

    def save(self, folder: Path) -> Path:
        """Write the checkpoint, with a tokenizer if the model is transformers'."""
        if isinstance(self.model, Restated):
            return self.model.save(folder)
        return save_checkpoint(self.model, folder, self.tokens)
