"""What a comparison of layers found: the structs that the table, the JSON file and the page are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from fletcher.runtime.errors import VerificationError

__all__ = ["LayersReport", "PointResult", "Section"]

Section = Literal["tokens", "weights", "values", "session"]
Verdict = Literal["passed", "failed", "missing"]


class PointResult(msgspec.Struct, frozen=True, kw_only=True):
    """One point: all texts of all batches together.

    Attributes:
        section: `tokens` (vocabulary and ids), `weights`, `values` of the graph, or the `session` that is served.
        point: its name for people.
        key: its name for machines, equal on every target.
        node: the graph's node, or the weight's name.
        layer: index of its layer, if it belongs to one.
        shape: of the artifact's value; names stand for sizes that the batch decides.
        max_abs: largest absolute difference of an element.
        relative: largest length of a row's difference, relative to the row's own length or, if that is larger, to the root
            mean square of the rows' lengths in that text. A row is what the last axis holds.
        cosine: smallest cosine of a text's values with the reference's.
        tolerance: what `relative` may be.
        verdict: `missing` if one side lacks the point.
        note: where it is worst, checksums, or what else is known.
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
    """A variant against a reference, point by point.

    Attributes:
        model: the card's name.
        artifact: the folder, as it was given.
        digest: of the artifact.
        variant: whose points were looked at.
        reference: the checkpoint, or the variant, that it was compared with.
        time: UTC, ISO 8601.
        tools: versions by package.
        batches: tokens of each text of each batch.
        points: in the order of computation.
        first: the first one that diverges; None if all agree.
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
        """The first point of a section that diverges."""
        return next((point for point in self.points if point.section == section and point.verdict != "passed"), None)

    @property
    def summary(self) -> str:
        """One sentence: everything agrees, or where it first goes wrong."""
        if self.first is None:
            return f"all {len(self.points)} points of {self.variant} agree with {self.reference}"
        return f"{self.variant} first diverges from {self.reference} at {_describe(self.first)}"

    def raise_if_failed(self) -> None:
        """
        Raises:
            VerificationError: a point diverges; the message names the first one with its node.
        """
        if self.first is None:
            return
        value = self.first_in("values")
        also = "" if value in (None, self.first) else f" Its first wrong value is {_describe(value)}."
        raise VerificationError(f"{self.artifact}: {self.summary}.{also} Do not serve it: convert the checkpoint again")


def _describe(point: PointResult) -> str:
    """A diverging point in words: its name, its node, and by how much."""
    figures = "" if point.verdict == "missing" else f", relative error {point.relative:.1e} of {point.tolerance:.0e}"
    note = f" ({point.note})" if point.note else ""
    return f"{point.point}, node {point.node}{figures}{note}"
