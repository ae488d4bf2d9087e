"""`VerificationReport`: the structs from which the table, the JSON file and the page of a verification are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.artifact.manifest import Verification
from fletcher.runtime.errors import VerificationError

__all__ = [
    "FurtherResult",
    "RefusedText",
    "SettingResult",
    "TextResult",
    "TokenizerResult",
    "VariantResult",
    "VerificationReport",
    "excerpt",
]

Verdict = Literal["passed", "failed"]


class TokenizerResult(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of the artifact's token ids with the reference's.

    Attributes:
        compared: number of texts.
        equal: number of texts with the same ids.
        truncated: number of texts that were truncated.
        reason: first difference; empty if all ids are equal.
    """

    compared: int
    equal: int
    truncated: int
    reason: str

    @property
    def verdict(self) -> Verdict:
        return "passed" if self.equal == self.compared else "failed"


class SettingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Setting or file of the checkpoint, and the texts that exercised it.

    Attributes:
        setting: file, and key in it.
        exercised_by: features of the texts that exercised it; empty if none did.
        texts: number of texts that exercised it.
        failed: number of these texts on which the artifact differs from the reference.
        verdict: `not checked` if no text exercised it.
        note: addition, such as the reason why it was not checked.
    """

    setting: str
    exercised_by: str
    texts: int
    failed: int
    verdict: Literal["passed", "failed", "not checked"]
    note: str = ""


class RefusedText(msgspec.Struct, frozen=True, kw_only=True):
    """Text that the reference itself refuses, so that there is nothing to compare.

    Attributes:
        text: beginning of the text, with control characters escaped.
        input_type: input type, whose prompt was added.
        reason: reason of the reference.
    """

    text: str
    input_type: str
    reason: str


class TextResult(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of one text.

    Attributes:
        text: beginning of the text, with control characters escaped.
        input_type: input type, whose prompt was added.
        tokens: length of the text, special tokens included.
        cosine: cosine with the reference; -1 if a vector is not finite.
        max_abs: largest absolute difference of an element.
    """

    text: str
    input_type: str
    tokens: int
    cosine: float
    max_abs: float


class FurtherResult(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of one of a variant's further outputs with the reference's.

    Attributes:
        output: `sparse` or `token_vectors`.
        cosine_min: smallest cosine of a row: of a text's weights, or of a token's vector.
        max_abs: largest absolute difference of an element.
        batch_max_abs: largest absolute difference of an element between a text alone and the same text in a batch.
        reasons: figures that are out of tolerance, as text; empty if the output passed.
    """

    output: str
    cosine_min: float
    max_abs: float
    batch_max_abs: float
    reasons: tuple[str, ...]


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of one variant's results with the reference's.

    Attributes:
        name: name of the variant.
        precision: precision of the variant.
        provider: execution provider that ran it.
        tolerance: accuracy that it had to reach.
        batch_tolerance: largest difference of an element between a text alone and in a batch that passes.
        cosine_mean: mean of the texts' cosines with their reference.
        cosine_p1: first percentile of these cosines.
        cosine_min: smallest of these cosines.
        max_abs: largest absolute difference of an element.
        batch_max_abs: largest absolute difference of an element between a text alone and the same text in a batch.
        providers_max_abs: largest absolute difference of an element between two providers that this machine has, on the
            canary; None if it has only one.
        neighbors: agreement of the ten nearest neighbors, 0 to 1.
        spearman: rank correlation of the pairwise similarities.
        worst: text with the smallest cosine.
        reasons: figures that are out of tolerance, as text; empty if the variant passed.
        texts: comparison of every text.
        pairs: similarities of pairs of texts by the variant and by the reference.
        further: comparison of its further outputs, if it has them.
    """

    name: str
    precision: str
    provider: str
    tolerance: Accuracy
    batch_tolerance: float
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    max_abs: float
    batch_max_abs: float
    providers_max_abs: float | None = None
    neighbors: float
    spearman: float
    worst: TextResult
    reasons: tuple[str, ...]
    texts: tuple[TextResult, ...]
    pairs: tuple[tuple[float, float], ...]
    further: tuple[FurtherResult, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return "failed" if self.reasons else "passed"

    @property
    def figures(self) -> Mapping[str, float]:
        """Figures that the manifest records."""
        return {
            "cosine_mean": self.cosine_mean,
            "cosine_p1": self.cosine_p1,
            "cosine_min": self.cosine_min,
            "max_abs": self.max_abs,
            "batch_max_abs": self.batch_max_abs,
            "neighbors": self.neighbors,
            "spearman": self.spearman,
            **({} if self.providers_max_abs is None else {"providers_max_abs": self.providers_max_abs}),
            **{f"{one.output}_cosine_min": one.cosine_min for one in self.further},
            **{f"{one.output}_max_abs": one.max_abs for one in self.further},
        }


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of an artifact with the reference, which sentence-transformers computes in float32.

    Attributes:
        model: the card's name.
        artifact: the artifact's folder.
        digest: digest of the artifact.
        reference: the checkpoint with the expected results.
        method: packages and classes that computed the reference, in words.
        notes: settings that the artifact has and the checkpoint has not, which were applied to the reference.
        time: UTC, ISO 8601.
        tools: versions by package.
        complete: whether every variant of the artifact was compared.
        tokenizer: comparison of the token ids.
        variants: comparison of each variant's results.
        settings: settings and files of the checkpoint, and the texts that exercised them.
        refused: texts that the reference itself refuses.
        likely: likely cause of a failure; empty if there is none.
        verdict: `passed` if the tokenizer and every variant passed.
    """

    model: str
    artifact: str
    digest: str
    reference: str
    method: str
    notes: tuple[str, ...] = ()
    time: str
    tools: Mapping[str, str]
    complete: bool
    tokenizer: TokenizerResult
    variants: tuple[VariantResult, ...]
    settings: tuple[SettingResult, ...] = ()
    refused: tuple[RefusedText, ...] = ()
    likely: str = ""
    verdict: Verdict

    @property
    def not_checked(self) -> tuple[str, ...]:
        """Return the settings that no text exercised."""
        return tuple(result.setting for result in self.settings if result.verdict == "not checked")

    @property
    def stamp(self) -> Verification:
        """Record of a passed verification for the manifest."""
        return Verification(
            reference=self.reference,
            by=self.method,
            not_checked=self.not_checked,
            time=self.time,
            texts=self.tokenizer.compared,
            tools=self.tools,
            figures={variant.name: variant.figures for variant in self.variants},
        )

    def raise_if_failed(self) -> None:
        """Raise an error if the verification failed.

        Raises:
            VerificationError: the verdict is `failed`; the message names each figure, and the worst text of each variant.
        """
        if self.verdict == "passed":
            return
        failures = [self.tokenizer.reason] if self.tokenizer.verdict == "failed" else []
        for variant in self.variants:
            if variant.verdict == "failed":
                worst = f"worst text {variant.worst.text!r} ({variant.worst.tokens} tokens)"
                failures.append(f"{variant.name}: {'; '.join(variant.reasons)}; {worst}")
        raise VerificationError(
            ". ".join(
                (
                    f"{self.artifact} does not reproduce {self.reference} ({self.method})",
                    *failures,
                    *([self.likely] if self.likely else []),
                    "Do not serve it",
                )
            )
        )


def excerpt(text: str, length: int = 60) -> str:
    """Return the beginning of a text on one printable line."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:length])
    return shown + ("…" if len(text) > length else "")
