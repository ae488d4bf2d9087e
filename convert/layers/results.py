"""Results of a comparison of layers: the structs from which the table, the JSON file and the page are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from fletcher.runtime.errors import VerificationError

__all__ = ["LayersReport", "PointResult", "Section"]

Section = Literal["tokens", "weights", "values", "session"]
Verdict = Literal["passed", "failed", "missing"]


class PointResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one point, over all texts of all batches.

    Attributes:
        section: `tokens` (vocabulary and ids), `weights`, `values` of the graph, or the `session` that is served.
        point: name in reports.
        key: name for programs, equal on every target.
        node: name of the graph's node, or of the weight.
        layer: index of its layer, if it is in one.
        shape: shape of the artifact's value; names stand for sizes that depend on the batch.
        max_abs: largest absolute difference of an element.
        relative: largest length of a row's difference, relative to the row's own length or, if that is larger, to the root
            mean square of the rows' lengths in that text. A row is what the last axis holds.
            The error of a score of one number below 1 counts as it is.
        cosine: smallest cosine of a text's values with the reference's.
        tolerance: largest `relative` that passes.
        verdict: `missing` if one side lacks the point.
        note: text with the largest difference, checksums, or other details.
    """

    section: Section
    point: str
    key: str
    node: str
    layer: int | None = None
    shape: tuple[int | str, ...] = ()
    max_abs: float = 0.0
    relative: float = 0.0
    cosine: float = 1.0
    tolerance: float = 0.0
    verdict: Verdict
    note: str = ""


class LayersReport(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of a variant with a reference, point by point.

    Attributes:
        model: the card's name.
        artifact: the artifact's folder.
        digest: digest of the artifact.
        variant: name of the variant whose points were compared.
        reference: the checkpoint, or the variant, with the expected values.
        time: UTC, ISO 8601.
        tools: versions by package.
        batches: tokens of each text of each batch.
        points: results in the order of computation.
        first: the first point that diverges; None if all agree.
        verdict: `passed` if all agree.
    """

    model: str
    artifact: str
    digest: str
    variant: str
    reference: str
    time: str
    tools: Mapping[str, str]
    batches: tuple[tuple[int, ...], ...]
    points: tuple[PointResult, ...]
    first: PointResult | None
    verdict: Literal["passed", "failed"]

    def first_in(self, section: Section) -> PointResult | None:
        """Return the first point of a section that diverges."""
        return next((point for point in self.points if point.section == section and point.verdict != "passed"), None)

    @property
    def summary(self) -> str:
        """Sentence that names the first point that diverges, if any does."""
        if self.first is None:
            return f"all {len(self.points)} points of {self.variant} agree with {self.reference}"
        return f"{self.variant} first diverges from {self.reference} at {_describe(self.first)}"

    def raise_if_failed(self) -> None:
        """Raise an error if a point diverges.

        Raises:
            VerificationError: a point diverges; the message names the first one with its node.
        """
        if self.first is None:
            return
        value = self.first_in("values")
        also = "" if value in (None, self.first) else f" Its first wrong value is {_describe(value)}."
        raise VerificationError(f"{self.artifact}: {self.summary}.{also} Do not serve it: convert the checkpoint again")


def _describe(point: PointResult) -> str:
    """Return name, node and relative error of a diverging point, as text."""
    figures = "" if point.verdict == "missing" else f", relative error {point.relative:.1e} of {point.tolerance:.0e}"
    note = f" ({point.note})" if point.note else ""
    return f"{point.point}, node {point.node}{figures}{note}"
