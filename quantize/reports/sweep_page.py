"""`sweep_to_html`: writes the report of a sweep as one HTML page that contains its styles and plots, to be read offline."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.pages import STYLE, html_table

from ..sweep.recommendation import INDEPENDENT, eligible
from ..sweep.results import Candidate, SweepReport
from .storage_table import storage_section
from .sweep_plots import plot_damage, plot_histograms, plot_pareto_front

__all__ = ["sweep_to_html"]

#: Styles of this page, in addition to those of every report.
MORE_STYLE = """
body { max-width: 72rem; } .wide td:first-child { white-space: nowrap; }
.take { border-left: 4px solid var(--good); background: #f3f8f5; padding: .8rem 1.1rem; margin: 1.25rem 0;
  font-size: 1.05rem; }
.wide { overflow-x: auto; } tr.chosen td { background: #f3f8f5; font-weight: 600; } tr.dropped td { color: var(--soft); }
td.bad { color: var(--bad); } .figures { margin: 0 0 1rem; } .plots.one { grid-template-columns: 1fr; max-width: 46rem; }
"""


def sweep_to_html(report: SweepReport) -> str:
    """Return the page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    useful = [candidate for candidate in report.candidates if not candidate.dropped]
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(report.model)}: sweep</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}{MORE_STYLE}</style></head><body>",
        f"<header><h1>{escape(report.model)}: smaller and faster variants</h1>",
        f'<p class="soft">Measured on {escape(report.machine)}, {escape(report.provider)}; {escape(report.time)}. '
        f"{report.measured:,} texts were measured ({escape(report.texts)}), and {report.calibrating:,} others calibrated the "
        "recipes.</p></header>",
        f'<p class="take">{escape(report.sentence)}</p>',
        _headline(report),
        f"<p>Artifact: <code>{escape(report.output)}</code></p>",
        "<h2>Every recipe</h2>",
        f'<div class="wide">{_candidates(report)}</div>',
        '<p class="soft">Speeds are relative to float32, measured in turns with it: throughput of short and of long texts, '
        f"and latency of one short text{_absolute(report.parent)}. Size and memory are relative to float32. A recipe can be "
        f"recommended if its worst cosine is at least {report.min_cosine:g}, it keeps at least {report.min_overlap:.0%} of "
        "the neighbors, and its vectors do not depend on the other texts of a batch: <i>batch</i> is 1 − cosine between a "
        "text alone and the same text in a batch, if that is more than rounding. ★: no other recipe is at least as accurate, "
        "fast and small.</p>",
        '<div class="plots one">',
        f"<figure>{plot_pareto_front(report, useful)}<figcaption>No other recipe is at least as accurate, fast and small as "
        "a filled point. The area of a point is the size of its file. The red point is recommended.</figcaption>"
        "</figure>",
        f"<figure>{plot_histograms(useful, report.min_cosine)}<figcaption>Distance of each text's vector from float32's. "
        "Texts beyond the bound, the dashed line, are red.</figcaption></figure>",
        "</div>",
        _damage(report),
        storage_section(report),
        _dropped(report),
        f"<footer><p>Artifact <code>{escape(report.artifact)}</code>, digest <code>{escape(report.digest)}</code>; the sweep "
        f"took {report.seconds / 60:.1f} minutes</p><p>{escape(tools)}</p></footer></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _headline(report: SweepReport) -> str:
    """Return the figures of the recommended recipe in large type."""
    chosen = next((candidate for candidate in report.candidates if candidate.name == report.chosen), None)
    if chosen is None or chosen.quality is None or chosen.speed is None:
        return ""
    quality, speed, bytes_before = chosen.quality, chosen.speed, report.parent.file_bytes
    figures = [
        (f"{speed.ratio:.2f}×", f"throughput: {speed.short_ratio:.2f}× short, {speed.long_ratio:.2f}× long texts"),
        (f"{speed.latency_ms:.1f} ms", f"latency of one short text, {speed.latency_ratio:.2f}× lower"),
        (f"{chosen.file_bytes / 1e6:,.0f} MB", f"instead of {bytes_before / 1e6:,.0f} MB"),
        (
            f"{quality.cosine_min:.4f}",
            f"lowest cosine of {report.measured:,} texts; mean {quality.cosine_mean:.5f}",
        ),
        (f"{quality.overlap:.1%}", "of the ten nearest neighbors stay"),
    ]
    cells = "".join(f'<div class="figure"><b>{value}</b><span>{label}</span></div>' for value, label in figures)
    return f'<div class="figures">{cells}</div>'


def _candidates(report: SweepReport) -> str:
    headings = ["recipe", "#cosine mean", "#p1", "#worst", "#neighbors", "#Spearman"]
    headings += ["#labeled pairs"] if report.pairs else []
    headings += ["#batch", "#short", "#long", "#latency", "#size", "#memory"]
    rows = [_row(report, report.parent)]
    rows += [_row(report, candidate) for candidate in report.candidates if candidate.quality is not None]
    return html_table(headings, rows)


def _absolute(parent: Candidate) -> str:
    speed = parent.speed
    if speed is None:
        return ""
    short, long = f"{speed.short_texts_per_s:,.0f} short texts", f"{speed.long_texts_per_s:,.0f} long texts per second"
    return f" (float32: {short}, {long}, {speed.latency_ms:.1f} ms)"


def _row(report: SweepReport, candidate: Candidate) -> str:
    quality, speed = candidate.quality, candidate.speed
    assert quality is not None and speed is not None
    parent = report.parent
    memory = ""
    if candidate.memory_bytes and parent.memory_bytes:
        memory = f"{candidate.memory_bytes / parent.memory_bytes:.2f}"
    depends = quality.batch_cosine < 1 - INDEPENDENT
    cells = [
        (f"{quality.cosine_mean:.5f}", False),
        (f"{quality.cosine_p1:.5f}", False),
        (f"{quality.cosine_min:.5f}", quality.cosine_min < report.min_cosine),
        (f"{quality.overlap:.1%}", quality.overlap < report.min_overlap),
        (f"{quality.spearman:.5f}", False),
        *([("" if quality.pairs is None else f"{100 * quality.pairs:.2f}", False)] if report.pairs else []),
        (f"{1 - quality.batch_cosine:.0e}" if depends else "none", depends),
        (f"{speed.short_ratio:.2f}", False),
        (f"{speed.long_ratio:.2f}", False),
        (f"{speed.latency_ratio:.2f}", False),
        (f"{candidate.size:.2f}", False),
        (memory, False),
    ]
    chosen = candidate.name == (report.chosen or parent.name)
    kind = "chosen" if chosen else "dropped" if candidate.dropped else ""
    mark = " ★" if candidate.name in report.pareto_front else ""
    fit = "" if candidate is parent or eligible(candidate, report.min_cosine, report.min_overlap) else " class=soft"
    body = "".join(f'<td class="number{" bad" if bad else ""}">{value}</td>' for value, bad in cells)
    name = f'<td{fit} title="{escape(candidate.description)}">{escape(candidate.name)}{mark}</td>'
    return f'<tr class="{kind}">{name}{body}</tr>'


def _damage(report: SweepReport) -> str:
    sensitivity = report.sensitivity
    if sensitivity is None:
        return ""
    return (
        "<h2>Damage by layer</h2>"
        f'<div class="plots one"><figure>{plot_damage(sensitivity)}<figcaption>Loss with only that matrix quantized, '
        f"on {sensitivity.texts} texts. Blue: attention (dark: queries, keys, values; light: output). Orange: up and gate "
        "matrices of the feed-forward part. Red: its down matrix. Recipes with exclusions leave the matrices in float32 that "
        "lose the most per saved multiplication.</figcaption></figure></div>"
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
