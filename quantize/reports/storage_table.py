"""`storage_section`: writes the results of searches over stored vectors as a section of a sweep's page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import Final

from fletcher.runtime.commandline.pages import html_table

from ..measure.metrics import NEIGHBORS
from ..measure.retrieval import Comparing, Rescoring, StorageResult
from ..sweep.results import SweepReport

__all__ = ["storage_section"]

COMPARED: Final[Mapping[Comparing, str]] = MappingProxyType(
    {
        "cosine": "cosine of the int8 codes as they are, without scales",
        "dot": "dot product of the int8 codes as they are, without scales",
        "scaled": "dot product of the int8 codes times their scales (decoded)",
        "hamming": "number of equal bits (Hamming)",
    }
)

RESCORED: Final[Mapping[Rescoring, str]] = MappingProxyType(
    {
        "codes": "with the stored codes themselves",
        "int8": "with int8 vectors from disk, times their scales",
        "float32": "with float32 vectors from disk",
    }
)

#: The stored codes as numbers that a float32 query is multiplied by.
DECODED: Final[Mapping[str, str]] = MappingProxyType({"int8": "times their scales", "ubinary": "as 1 and −1"})


def storage_section(report: SweepReport) -> str:
    """Return the section as HTML; empty without results."""
    if not report.storage:
        return ""
    table = html_table(
        ("stored as", "compared by", "rescored", "#bytes per vector", "#smaller", "#found", "#lost"),
        (_row(result) for result in report.storage),
    )
    return (
        f"<h2>Stored vectors</h2><p>Share of the {NEIGHBORS} nearest vectors in float32 (by cosine) that a search finds if "
        "the same vectors are stored as <code>--dtype int8</code> and <code>--dtype ubinary</code> return them. Each of "
        f"{report.measured:,} vectors is a query for the others.</p>"
        f"<p>{_advice(report)}</p>{table}"
    )


def _row(result: StorageResult) -> str:
    rescored = "not rescored"
    if result.rescoring != "none":
        rescored = f"the best {result.candidates}: the float32 query {RESCORED[result.rescoring]}"
        if result.rescoring == "codes":
            rescored += f", {DECODED[result.dtype]}"
    return (
        f"<tr><td>{result.dtype}</td><td>{escape(COMPARED[result.comparing])}</td><td>{escape(rescored)}</td>"
        f'<td class="number">{result.bytes:,}</td><td class="number">{result.smaller:.0f}×</td>'
        f'<td class="number">{result.overlap:.1%}</td><td class="number">{1 - result.overlap:.1%}</td></tr>'
    )


def _advice(report: SweepReport) -> str:
    """Return the setting of a vector database that int8 vectors need."""
    plain = {result.comparing: result.overlap for result in report.storage if result.rescoring == "none"}
    return (
        "A vector database compares int8 codes as they are. Every int8 vector has a scale of its own, so set the database to "
        f"cosine ({plain['cosine']:.1%} found): the dot product of the codes ({plain['dot']:.1%}) ignores the scales, unless "
        f"the codes are decoded, which means multiplied by <code>scale</code> ({plain['scaled']:.1%})."
    )
