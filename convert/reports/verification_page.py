"""Verification report as one HTML page with styles and plots inside: it can be mailed, archived, and read offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fletcher.runtime.commandline.pages import Page, figure, figures, html_table, verdict_badge
from fletcher.runtime.commandline.pages import to_html as page_html

from ..verify.report import RefusedText, SettingResult, TextResult, VariantResult, VerificationReport
from .plots import plot_cosines, plot_pairs

__all__ = ["LengthRow", "by_length", "to_html"]

#: Number of texts that the page lists, the worst first.
SHOWN_TEXTS = 12


@dataclass(frozen=True, slots=True)
class LengthRow:
    """Row of the table by length: texts of similar length.

    Attributes:
        shortest: smallest number of tokens.
        longest: largest number of tokens.
        texts: number of texts.
        cosine_min: smallest cosine among them.
        max_abs: largest absolute difference of an element among them.
    """

    shortest: int
    longest: int
    texts: int
    cosine_min: float
    max_abs: float


def by_length(texts: Sequence[TextResult]) -> list[LengthRow]:
    """Return the texts in classes of doubling length: to 4 tokens, 5 to 8, 9 to 16 …"""
    classes: dict[int, list[TextResult]] = {}
    for text in texts:
        classes.setdefault(max((text.tokens - 1).bit_length(), 2), []).append(text)
    return [
        LengthRow(
            min(text.tokens for text in group),
            max(text.tokens for text in group),
            len(group),
            min(text.cosine for text in group),
            max(text.max_abs for text in group),
        )
        for _, group in sorted(classes.items())
    ]


def to_html(report: VerificationReport) -> str:
    """Return the page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    ids = report.tokenizer
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    return page_html(
        Page(
            title=f"{report.model}: verification",
            sentences=[_sentence(report)],
            about=f"Artifact <code>{escape(report.artifact)}</code> against <code>{escape(report.reference)}</code>, "
            f"run by {escape(report.method)} in float32, one text at a time; {escape(report.time)}",
            verdict=report.verdict,
            parts=(
                _reasons(report.notes, "notes"),
                _reasons([report.likely] if report.likely else []),
                f"<h2>Token ids{verdict_badge(ids.verdict)}</h2>",
                f"<p>Equal on {ids.equal:,} of {ids.compared:,} texts, {ids.truncated:,} of them truncated.</p>",
                _reasons([ids.reason] if ids.reason else []),
                _refused(report.refused),
                *(_variant(variant) for variant in report.variants),
                _settings(report.settings) if report.settings else "",
            ),
            footer=(
                f"Artifact digest <code>{escape(report.digest)}</code>",
                escape(tools),
                *(() if report.complete else ("Not every variant was compared, so the artifact was not stamped.",)),
            ),
        )
    )


def _sentence(report: VerificationReport) -> str:
    """Return the result as a sentence."""
    failed = [variant for variant in report.variants if variant.verdict == "failed"]
    if report.tokenizer.verdict == "failed":
        return f"The artifact of {report.model} must not be served: its token ids differ from those of the reference"
    if failed:
        names = ", ".join(f"{variant.name} ({'; '.join(variant.reasons)})" for variant in failed)
        return f"The artifact of {report.model} must not be served: its vectors are not those of the reference with {names}"
    worst = min((variant.cosine_min for variant in report.variants), default=1.0)
    count = len(report.variants)
    variants = f"{count} variants" if count > 1 else "1 variant"
    return (
        f"The artifact of {report.model} gives the vectors of the reference: the smallest cosine of "
        f"{report.tokenizer.compared:,} texts with {variants} is {worst:.7f}"
    )


def _variant(variant: VariantResult) -> str:
    limit = variant.tolerance.max_abs
    values = (
        (f"{variant.cosine_min:.7f}", f"smallest cosine (≥ {variant.tolerance.min_cosine})"),
        (f"{variant.cosine_p1:.7f}", "cosine, first percentile"),
        (f"{variant.cosine_mean:.7f}", "cosine, mean"),
        (f"{variant.max_abs:.1e}", "max abs difference" + (f" (≤ {limit:.0e})" if limit is not None else "")),
        (f"{variant.batch_max_abs:.1e}", f"alone against in a batch (≤ {variant.batch_tolerance:.0e})"),
        (f"{variant.neighbors:.2%}", "ten nearest neighbors agree"),
        (f"{variant.spearman:.6f}", "Spearman of pairwise similarities"),
    )
    return "\n".join(
        (
            f"<section><h2>{escape(variant.name)} on {escape(variant.provider)}{verdict_badge(variant.verdict)}</h2>",
            _reasons(variant.reasons),
            figures(values),
            '<div class="plots">',
            figure(
                plot_cosines(variant),
                "Distance of each text from its reference: further left is closer. The dashed line is the tolerance.",
            ),
            figure(
                plot_pairs(variant),
                f"Similarity of {len(variant.pairs):,} pairs of texts, by the reference and by the artifact: on the line "
                "they are equal.",
            ),
            "</div>",
            "<h3>By length</h3>",
            _lengths(by_length(variant.texts)),
            "<h3>Worst texts</h3>",
            _worst(variant.texts),
            "</section>",
        )
    )


def _lengths(rows: Sequence[LengthRow]) -> str:
    finite = [row.max_abs for row in rows if row.max_abs < float("inf")]
    largest = max(finite, default=0.0) or 1.0
    body = (
        f'<tr><td class="number">{row.shortest:,}–{row.longest:,}</td><td class="number">{row.texts:,}</td>'
        f'<td class="number">{_distance(row.cosine_min)}</td><td class="number">{row.max_abs:.1e}</td>'
        f'<td class="bar"><div style="width:{100 * min(row.max_abs / largest, 1.0):.0f}%"></div></td></tr>'
        for row in rows
    )
    return html_table(("#tokens", "#texts", "#largest 1 − cosine", "#max abs", ""), body)


def _worst(texts: Sequence[TextResult]) -> str:
    worst = sorted(texts, key=lambda text: (text.cosine, -text.max_abs))[:SHOWN_TEXTS]
    body = (
        f"<tr><td><code>“<bdi>{escape(text.text)}</bdi>”</code></td><td>{escape(text.input_type)}</td>"
        f'<td class="number">{text.tokens:,}</td><td class="number">{_distance(text.cosine)}</td>'
        f'<td class="number">{text.max_abs:.1e}</td></tr>'
        for text in worst
    )
    return html_table(("text", "input type", "#tokens", "#1 − cosine", "#max abs"), body)


def _distance(cosine: float) -> str:
    """Return 1 - cosine as text, which is easier to read than a row of nines."""
    return f"{max(1.0 - cosine, 0.0):.1e}"


def _reasons(reasons: Sequence[str], kind: str = "reasons") -> str:
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _refused(texts: Sequence[RefusedText]) -> str:
    """Return the texts that the reference itself refuses."""
    if not texts:
        return ""
    items = "".join(
        f"<li><code>“<bdi>{escape(text.text)}</bdi>”</code> ({escape(text.input_type)}): {escape(text.reason)}</li>"
        for text in texts
    )
    return f"<p>Not compared, because the reference itself refuses them:</p><ul>{items}</ul>"


def _settings(results: Sequence[SettingResult]) -> str:
    """Return the settings and files of the checkpoint, and the texts that exercised them."""
    body = (
        f"<tr><td><code>{escape(result.setting)}</code></td><td>{escape(result.exercised_by or result.note)}</td>"
        f'<td class="number">{result.texts:,}</td><td class="number">{result.failed:,}</td>'
        f"<td>{verdict_badge(result.verdict)}</td></tr>"
        for result in results
    )
    return "\n".join(
        (
            "<section><h2>Settings and files of the checkpoint</h2>",
            "<p>A setting that no text exercised is not checked: the verdict says nothing about it.</p>",
            html_table(("setting", "exercised by texts with", "#texts", "#that differ", ""), body),
            "</section>",
        )
    )
