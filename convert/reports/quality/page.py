"""Quality report as one HTML page with styles, plots and the map inside: it can be mailed, archived, and read offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from fletcher.runtime.commandline.pages import Page, figure, figures, html_table, to_html

from ...quality.quality import Measured
from ...quality.results import ArtifactComparison, QualityReport, QualityResult
from .figures import compressed_rows, explain_figure, figure_rows
from .map import MAP_STYLE, map_section
from .plots import plot_compressed, plot_cosines

__all__ = ["quality_to_html"]

STYLE = """
td.group { color: var(--soft); } td.soft { padding-left: 1.2rem; } td.advised { background: var(--tint); font-weight: 600; }
"""


def quality_to_html(result: QualityResult, measured: Sequence[Measured]) -> str:
    """Return the page.

    Args:
        result: the report.
        measured: texts and maps of its artifacts.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    reports = result.reports
    first = reports[0]
    title = " and ".join(dict.fromkeys(report.model for report in reports))
    tools = ", ".join(f"{name} {version}" for name, version in first.tools.items())
    sentences = [report.sentence for report in reports]
    if result.comparison is not None:
        sentences.append(result.comparison.sentence)
    return to_html(
        Page(
            title=f"{title}: quality of the vectors",
            sentences=sentences,
            about=f"{first.different:,} different texts of {escape(first.source)}, input type "
            f"<code>{escape(first.input_type)}</code>; {escape(first.time)}",
            parts=(
                "" if len(reports) > 1 else _headline(first),
                "<h2>Figures</h2>",
                _figures(reports),
                *(_artifact(one, index, named=len(reports) > 1) for index, one in enumerate(measured)),
                "" if result.comparison is None else _comparison(result.comparison, reports),
            ),
            footer=(
                *(
                    f"Artifact <code>{escape(report.artifact)}</code>, {escape(report.variant)}, digest "
                    f"<code>{escape(report.digest)}</code>; its canary: {escape(report.proof)}. Embedding took "
                    f"{report.embedding_seconds:.0f} s, the measures {report.seconds:.0f} s"
                    for report in reports
                ),
                escape(tools),
            ),
            style=STYLE + MAP_STYLE,
        )
    )


def _headline(report: QualityReport) -> str:
    """Return the figures of one artifact in large type."""
    geometry = report.geometry
    values = [
        (f"{geometry.random_pairs.mean:.2f}", "cosine of two random texts (mean)"),
        (f"{geometry.neighbors.mean:.2f}", "cosine with the nearest text (mean)"),
        (f"{geometry.effective_rank:.0f} of {geometry.dimension:,}", "effective rank: directions that the vectors use"),
        (f"{report.hubness.skewness:.1f}", "hubness: near 0 no text is a neighbor of very many others"),
        (f"{report.duplicates.near_share:.1%}", f"have a near-duplicate (cosine ≥ {report.duplicates.threshold:g})"),
    ]
    if report.retrieval is not None:
        values.insert(0, (f"{report.retrieval.ndcg:.3f}", f"nDCG@10 of {report.retrieval.queries:,} queries"))
    if report.labels is not None:
        values.insert(
            0,
            (
                f"{report.labels.probe_accuracy:.1%}",
                f"of the labels found by a linear classifier; a guess: {report.labels.majority:.1%}",
            ),
        )
    return figures(values)


def _figures(reports: Sequence[QualityReport]) -> str:
    headings = ("", "", *(f"#{escape(Path(report.artifact).name)}" for report in reports), "meaning")
    body, before = [], ""
    for group, name, values in figure_rows(reports):
        cells = "".join(f'<td class="number">{escape(value)}</td>' for value in values)
        shown = group if group != before else ""
        body.append(
            f'<tr><td class="group">{escape(shown)}</td><td>{escape(name)}</td>{cells}'
            f'<td class="soft">{escape(explain_figure(group, name))}</td></tr>'
        )
        before = group
    return html_table(headings, body)


def _artifact(measured: Measured, index: int, *, named: bool) -> str:
    report = measured.report
    name = f"{escape(Path(report.artifact).name)}: " if named else ""
    return "\n".join(
        part
        for part in (
            f"<section><h2>{name}{'map of the texts' if named else 'Map of the texts'}</h2>"
            if measured.map
            else "<section>",
            map_section(measured),
            f"<h2>{name}{'cosines and smaller vectors' if named else 'Cosines and smaller vectors'}</h2>",
            '<div class="plots">',
            figure(
                plot_cosines(report, f"artifact {index}"),
                "Cosines of random pairs of texts, of each text with its tenth neighbor, and with its nearest one. The "
                "further they lie apart, the easier it is to choose a threshold.",
            ),
            figure(
                plot_compressed(report, f"artifact {index}"),
                "Share of the ten nearest neighbors in float32 that a search over smaller vectors finds. The dashed line is "
                "the bound of the advice.",
            ),
            "</div>",
            _compressed(report),
            _labels(report),
            _duplicates(report),
            f"<h3>Largest hub</h3><p>It is among the {report.hubness.neighbors} nearest neighbors of "
            f"{report.hubness.largest:,} texts: <code>“<bdi>{escape(report.hubness.largest_text)}</bdi>”</code></p>",
            "</section>",
        )
        if part
    )


def _compressed(report: QualityReport) -> str:
    headings = ["vectors", "#length", "#float32", "#float16", "#int8", "#binary, rescored"]
    if report.retrieval is not None:
        headings += ["#nDCG@10", "#nDCG@10, int8"]
    advised = report.advice
    body = []
    for row in compressed_rows(report):
        chosen = advised is not None and (advised.method, f"{advised.dimension:,}") == (row[0].split(" ")[0], row[1])
        style = " advised" if chosen else ""
        cells = "".join(f'<td class="number{style}">{cell}</td>' for cell in row[1:])
        body.append(f'<tr><td class="{style.strip()}">{escape(row[0])}</td>{cells}</tr>')
    return (
        '<h3>Ten nearest neighbors that stay, by length and type</h3><p class="soft">Measured on every second text; the '
        "others fitted PCA. <code>fletcher-convert reduce</code> writes an artifact with PCA as its last layer.</p>"
        f"{html_table(headings, body)}"
    )


def _labels(report: QualityReport) -> str:
    if report.labels is None:
        return ""
    body = (
        f'<tr><td>{escape(one.label)}</td><td class="number">{one.texts:,}</td>'
        f'<td class="number">{one.silhouette:.3f}</td></tr>'
        for one in report.labels.labels
    )
    return f"<h3>Labels</h3>{html_table(('label', '#texts', '#silhouette'), body)}"


def _duplicates(report: QualityReport) -> str:
    if not report.duplicates.pairs:
        return ""
    body = (
        f'<tr><td class="number">{pair.cosine:.3f}</td><td><bdi>{escape(pair.first)}</bdi></td>'
        f"<td><bdi>{escape(pair.second)}</bdi></td></tr>"
        for pair in report.duplicates.pairs
    )
    return f"<h3>Closest pairs of different texts</h3>{html_table(('#cosine', 'text', 'text'), body)}"


def _comparison(comparison: ArtifactComparison, reports: Sequence[QualityReport]) -> str:
    names = [escape(Path(report.artifact).name) for report in reports]
    body = (
        f"<tr><td><bdi>{escape(one.text)}</bdi></td>"
        f'<td class="number">{one.overlap:.0%}</td><td class="number">{one.correlation:.3f}</td>'
        f"<td><bdi>{escape(one.nearest)}</bdi></td><td><bdi>{escape(one.other_nearest)}</bdi></td></tr>"
        for one in comparison.moved
    )
    headings = ("text", "#common neighbors", "#rank correlation", f"nearest by {names[0]}", f"nearest by {names[1]}")
    return f"<h2>Texts that moved most</h2>{html_table(headings, body)}"
