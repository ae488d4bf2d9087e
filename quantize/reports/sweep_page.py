"""`sweep_to_html`: writes the report of a sweep as one HTML page that contains its styles and plots, to be read offline."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.pages import Page, figure, figures, to_html

from ..sweep.results import SweepReport
from .recipe_table import format_range, recipe_table, table_legend
from .storage_table import storage_section
from .sweep_plots import plot_damage, plot_histograms, plot_pareto_front

__all__ = ["sweep_to_html"]

#: Styles of this page, in addition to those of every report.
STYLE = """
.recipes td:first-child { min-width: 14rem; } .recipes table { font-size: .82rem; }
tr.chosen td { background: var(--tint); font-weight: 600; } tr.dropped td { color: var(--soft); }
td small, th small { display: block; line-height: 1.25; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .85rem; margin: .75rem 0; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
@page { size: landscape; }
@media print { .recipes table { font-size: 6.5pt; } .recipes td:first-child { min-width: 9rem; } }
"""


def sweep_to_html(report: SweepReport) -> str:
    """Return the page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    useful = [candidate for candidate in report.candidates if not candidate.dropped]
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    return to_html(
        Page(
            title=f"{report.model}: smaller and faster variants",
            sentences=[report.sentence],
            about=f"Measured on {escape(report.machine)}, {escape(report.provider)}; {escape(report.time)}. "
            f"{report.measured:,} texts were measured ({escape(report.texts)}), and {report.calibrating:,} others calibrated "
            "the recipes.",
            parts=(
                _headline(report),
                f"<p>Artifact: <code>{escape(report.output)}</code></p>",
                "<h2>Every recipe</h2>",
                f'<div class="recipes">{recipe_table(report)}</div>',
                table_legend(report),
                '<div class="plots one">',
                figure(
                    plot_pareto_front(report, useful),
                    "No other recipe is at least as accurate, fast and small as a filled point, among those within the "
                    "bounds. A line through a point is the range of its speed, and the area of a point the size of its file. "
                    "The red point is recommended.",
                ),
                figure(
                    plot_histograms(useful, report.min_cosine),
                    "Distance of each text's vector from float32's. Texts beyond the bound, the dashed line, are red.",
                ),
                "</div>",
                _damage(report),
                storage_section(report),
                _dropped(report),
            ),
            footer=(
                "Accuracy is measured against the vectors of the float32 artifact. Its canary: "
                f"{escape(report.proof)}.",
                f"Artifact <code>{escape(report.artifact)}</code>, digest <code>{escape(report.digest)}</code>; the sweep "
                f"took {report.seconds / 60:.1f} minutes",
                escape(tools),
            ),
            style=STYLE,
        )
    )


def _headline(report: SweepReport) -> str:
    """Return the figures of the recommended recipe in large type."""
    chosen = next((candidate for candidate in report.candidates if candidate.name == report.chosen), None)
    if chosen is None or chosen.quality is None or chosen.speed is None:
        return ""
    quality, speed, bytes_before = chosen.quality, chosen.speed, report.parent.file_bytes
    ratio, short, long = speed.throughput_ratio, speed.short_ratio, speed.long_ratio
    return figures(
        [
            (
                f"{ratio.median:.2f}×",
                f"throughput ({format_range(ratio)}): {short.median:.2f}× for texts of {speed.short_tokens} tokens, "
                f"{long.median:.2f}× for {speed.long_tokens}",
            ),
            (
                f"{speed.latency_ms.median:.1f} ms",
                f"latency of one text of {speed.latency_tokens} tokens, {speed.latency_ratio.median:.2f}× faster "
                f"({format_range(speed.latency_ratio)})",
            ),
            (f"{chosen.file_bytes / 1e6:,.0f} MB", f"instead of {bytes_before / 1e6:,.0f} MB"),
            (
                f"{quality.cosine_min:.4f}",
                f"lowest cosine of {report.measured:,} texts; mean {quality.cosine_mean:.5f}",
            ),
            (f"{quality.overlap:.1%}", "of the ten nearest neighbors stay"),
        ]
    )


def _damage(report: SweepReport) -> str:
    sensitivity = report.sensitivity
    if sensitivity is None:
        return ""
    return (
        "<h2>Damage by layer</h2>"
        '<div class="plots one">'
        + figure(
            plot_damage(sensitivity),
            f"Loss with only that matrix quantized, on {sensitivity.texts} texts. Blue: attention (dark: queries, keys, "
            "values; light: output). Orange: up and gate matrices of the feed-forward part. Red: its down matrix.",
        )
        + "</div>"
        + _exclusions(report)
    )


def _exclusions(report: SweepReport) -> str:
    """Return the list of the recipes that leave matrices in float32, with the names of the matrices."""
    items = [
        f"<li><b>{escape(candidate.name)}</b>: <code>{escape(', '.join(candidate.recipe.exclude))}</code></li>"
        for candidate in report.candidates
        if candidate.recipe is not None and candidate.recipe.exclude
    ]
    if not items:
        return ""
    return (
        "<h3>Matrices that a recipe leaves in float32</h3><p>Those that lose the most accuracy per saved "
        f"multiplication.</p><ul>{''.join(items)}</ul>"
    )


def _dropped(report: SweepReport) -> str:
    items = [
        f"<li><b>{escape(candidate.name)}</b>: {escape(candidate.dropped)}</li>"
        for candidate in report.candidates
        if candidate.dropped
    ]
    items += [
        f"<li><b>{escape(name)}</b>: not measured: the time budget was used up</li>" for name in report.not_reached
    ]
    return f"<h2>Dropped</h2><ul>{''.join(items)}</ul>" if items else ""
