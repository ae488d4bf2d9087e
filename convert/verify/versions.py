"""Texts that transformers 4 and 5 read differently, where the artifact follows another version than the reference ran.

Version 4 takes the whole of `tokenizer.json`, version 5 builds the pipeline around its vocabulary from the class. On texts
with certain characters the two therefore differ, and the installed version cannot say what the other one gives. Such a text
is not compared, and the report says so: it is not checked, rather than passed or failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from fletcher.runtime.artifact.manifest import Manifest

from ..reference.witness import Witness
from .case import BLANK, BLANKS, CONTROL, LONG, LONG_WORD, NEXT_LINE, SPACES, Case
from .outputs import TokenRow
from .report import SettingResult, excerpt

__all__ = ["VersionGap", "find_gap"]

#: Features of texts that the versions read differently; a difference on any other text is a failure.
FEATURES = frozenset((NEXT_LINE, BLANKS, BLANK, SPACES, CONTROL, LONG_WORD))


@dataclass(frozen=True, slots=True)
class VersionGap:
    """Version that the artifact follows, and the one that the reference ran.

    Attributes:
        follows: version in the artifact's manifest, such as `transformers 4`.
        ran: version of the reference, such as `5.24.0`.
        tokenizer: tokenizer.json of the checkpoint, as version 4 takes it.
        prompts: prompts by input type.
        strips: whether the blanks around a text are removed.
    """

    follows: str
    ran: str
    tokenizer: Tokenizer
    prompts: Mapping[str, str]
    strips: bool

    def explains(self, case: Case, row: TokenRow) -> bool:
        """Return whether the versions explain that the artifact gives other token ids than the reference.

        They do if the text has a feature that they read differently, and the artifact gives the ids of `tokenizer.json`.
        """
        if row.refused or LONG in case.features or not case.features & FEATURES:
            return False
        if case.query is not None:
            return tuple(self.tokenizer.encode(case.query, case.text).ids) == row.ids
        text = self.prompts.get(case.input_type, "") + case.text
        return tuple(self.tokenizer.encode(text.strip() if self.strips else text).ids) == row.ids

    def describe(self, cases: Sequence[Case]) -> SettingResult:
        """Return the row of the report for the texts that were not compared."""
        return SettingResult(
            setting="texts that versions 4 and 5 of transformers read differently",
            exercised_by="",
            texts=0,
            failed=0,
            verdict="not checked",
            note=f"{len(cases)} texts, such as {excerpt(cases[0].text)!r}: the artifact follows {self.follows}, the "
            f"reference ran {self.ran}",
        )


def find_gap(manifest: Manifest, witness: Witness) -> VersionGap | None:
    """Return the gap between the version that the artifact follows and the reference's; None if they are the same.

    Args:
        manifest: manifest of the artifact.
        witness: the reference.
    """
    follows = manifest.tokenizer_like
    ran = witness.tools["transformers"]
    file = witness.encoder_folder / "tokenizer.json"
    if (
        follows != "transformers 4"
        or ran.startswith("4.")
        or not file.is_file()
        or witness.card.late_interaction is not None
    ):
        return None
    tokenizer: Any = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prompts = {**witness.card.prompts, **witness.own_prompts}
    return VersionGap(follows, ran, tokenizer, prompts, witness.strips)
