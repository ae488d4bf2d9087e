"""What a verification found: the structs of its report, which the terminal, the JSON file and the page are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.artifact.manifest import Verification
from fletcher.runtime.errors import VerificationError

__all__ = ["TextResult", "TokenizerResult", "VariantResult", "VerificationReport", "excerpt"]

Verdict = Literal["passed", "failed"]


class TokenizerResult(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact's token ids against those of HuggingFace.

    Attributes:
        compared: how many texts.
        equal: how many of them had exactly the same ids.
        truncated: how many of them were too long.
        reason: empty, or the first difference.
    """

    compared: int
    equal: int
    truncated: int
    reason: str

    @property
    def verdict(self) -> Verdict:
        return "passed" if self.equal == self.compared else "failed"


class TextResult(msgspec.Struct, frozen=True, kw_only=True):
    """One text.

    Attributes:
        text: its beginning, with control characters escaped.
        input_type: whose prompt it had.
        tokens: its length, special tokens included.
        cosine: with the reference; -1 where a vector is not finite.
        max_abs: largest absolute difference of an element.
    """

    text: str
    input_type: str
    tokens: int
    cosine: float
    max_abs: float


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One graph's vectors against those of HuggingFace.

    Attributes:
        name: of the variant.
        precision: of the variant.
        provider: what it ran on.
        tolerance: what it had to reach.
        batch_tolerance: how far apart a text's vectors alone and in a batch may be.
        cosine_mean: mean of the texts' cosines with their reference.
        cosine_p1: their first percentile.
        cosine_min: their minimum.
        max_abs: largest absolute difference of an element.
        batch_max_abs: largest absolute difference of an element between a text alone and the same text in a batch.
        neighbors: agreement of the ten nearest neighbors, 0 to 1.
        spearman: rank correlation of the pairwise similarities.
        worst: the text with the smallest cosine.
        reasons: what was out of tolerance, in words; empty if nothing was.
        texts: every text.
        pairs: similarities of pairs of texts, ours and the reference's.
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
    neighbors: float
    spearman: float
    worst: TextResult
    reasons: tuple[str, ...]
    texts: tuple[TextResult, ...]
    pairs: tuple[tuple[float, float], ...]

    @property
    def verdict(self) -> Verdict:
        return "failed" if self.reasons else "passed"

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures that the manifest keeps."""
        return {
            "cosine_mean": self.cosine_mean,
            "cosine_p1": self.cosine_p1,
            "cosine_min": self.cosine_min,
            "max_abs": self.max_abs,
            "batch_max_abs": self.batch_max_abs,
            "neighbors": self.neighbors,
            "spearman": self.spearman,
        }


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact against the HuggingFace model in float32.

    Attributes:
        model: the card's name.
        artifact: the folder, as it was given.
        digest: of the artifact.
        reference: the checkpoint that it was compared with.
        time: UTC, ISO 8601.
        tools: versions by package.
        complete: whether every variant of the artifact was compared.
        tokenizer: token ids.
        variants: vectors.
        verdict: `passed` if the tokenizer and every variant did.
    """

    model: str
    artifact: str
    digest: str
    reference: str
    time: str
    tools: Mapping[str, str]
    complete: bool
    tokenizer: TokenizerResult
    variants: tuple[VariantResult, ...]
    verdict: Verdict

    @property
    def stamp(self) -> Verification:
        """What the manifest records of a verification that passed."""
        return Verification(
            reference=self.reference,
            time=self.time,
            texts=self.tokenizer.compared,
            tools=self.tools,
            figures={variant.name: variant.figures for variant in self.variants},
        )

    def raise_if_failed(self) -> None:
        """
        Raises:
            VerificationError: the verdict is `failed`; the message names each figure, and the worst text of each variant.
        """
        if self.verdict == "passed":
            return
        found = [self.tokenizer.reason] if self.tokenizer.verdict == "failed" else []
        for variant in self.variants:
            if variant.verdict == "failed":
                worst = f"worst text {variant.worst.text!r} ({variant.worst.tokens} tokens)"
                found.append(f"{variant.name}: {'; '.join(variant.reasons)}; {worst}")
        raise VerificationError(
            f"{self.artifact} does not reproduce {self.reference}. {'. '.join(found)}. "
            "Do not serve it: convert the checkpoint again, and report it if it stays so"
        )


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text on one printable line."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:length])
    return shown + ("…" if len(text) > length else "")
