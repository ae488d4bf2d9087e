"""Causes of defects that are known and not mended yet. A test of each is expected to fail, and fails when it is mended."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .generation.edits import Mutant

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """Cause of defects.

    Attributes:
        name: short name, the test's parameter.
        pattern: regular expression that the text of its mutants matches.
        example: text of a mutant with the defect.
        reason: description of the difference.
    """

    name: str
    pattern: str
    example: str
    reason: str


KNOWN_DEFECTS: tuple[KnownDefect, ...] = (
    KnownDefect(
        "no limit below the positions of RoBERTa",
        r"^reranker-roberta: .*(model_max_length (removed|=|10{30}$)|n(o|either) tokenizer_config)"
        r"|^reranker-roberta: tokenizer_config.json (removed|an empty)"
        r"|^(roberta|xlm-roberta|camembert|mpnet): no limit of the length",
        "reranker-roberta: max_seq_length 12, model_max_length 1000000000000000000000000000000",
        "without another limit sentence-transformers cuts at max_position_embeddings, and fails for the last tokens of a "
        "family that counts positions after its padding id; Fletcher cuts at the last position",
    ),
    KnownDefect(
        "no padding token",
        r"^modernbert: tokenizer_config.json( pad_token (= None|removed)| removed| an empty object)",
        "modernbert: tokenizer_config.json pad_token = None",
        "sentence-transformers asks its tokenizer to pad, and fails without a padding token; Fletcher needs none",
    ),
    KnownDefect(
        "types that only NomicBertConfig refuses",
        r"^nomic_bert: config.json (classifier_dropout = 1|pad_token_id = None)$",
        "nomic_bert: config.json pad_token_id = None",
        "transformers refuses the type of a value that no computation uses and that other families may have",
    ),
)


def known_defect(mutant: Mutant) -> KnownDefect | None:
    """Return the known cause that a mutant belongs to."""
    return next((cause for cause in KNOWN_DEFECTS if re.search(cause.pattern, str(mutant))), None)
