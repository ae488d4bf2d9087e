"""A sweep's report as one page: styles and plots are inside, so it can be mailed, archived, and read offline."""

from __future__ import annotations

from html import escape

from fletcher.quantize.sweep.recommendation import INDEPENDENT, eligible
from fletcher.quantize.sweep.results import Point, SweepReport
from fletcher.runtime.commandline.pages import STYLE, html_table

from .sweep_plots import plot_damage, plot_front, plot_histograms

__all__ = ["sweep_to_html"]

#: Besides the verification report's styles.
MORE_STYLE = """
body { max-width: 72rem; } .wide td:first-child { white-space: nowrap; }
.take { border-left: 4px solid var(--good); background: #f3f8f5; padding: .8rem 1.1rem; margin: 1.25rem 0;
  font-size: 1.05rem; }
.wide { overflow-x: auto; } tr.chosen td { background: #f3f8f5; font-weight: 600; } tr.dropped td { color: var(--soft); }
td.bad { color: var(--bad); } .figures { margin: 0 0 1rem; } .plots.one { grid-template-columns: 1fr; max-width: 46rem; }
"""

RESCORING = {
    "none": "not rescored",
    "codes": "rescored with the float32 query",
    "int8": "rescored with int8 vectors from disk",
    "float32": "rescored with float32 vectors from disk",
}


def sweep_to_html(report: SweepReport) -> str:
    """The page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    kept = [point for point in report.points if not point.dropped]
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(report.model)}: sweep</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}{MORE_STYLE}</style></head><body>",
        f"<header><h1>{escape(report.model)}: smaller and faster variants</h1>",
        f'<p class="soft">Measured on {escape(report.machine)}, {escape(report.provider)}; {escape(report.time)}. '
        f"{report.judged:,} texts judge ({escape(report.texts)}); {report.calibrating:,} others calibrate.</p></header>",
        f'<p class="take">{escape(report.sentence)}</p>',
        _headline(report),
        f"<p>The artifact: <code>{escape(report.output)}</code></p>",
        "<h2>Every recipe</h2>",
        f'<div class="wide">{_points(report)}</div>',
        f'<p class="soft">Speeds are times float32\'s, measured in turns with it: throughput of short and of long texts, and '
        f"the latency of one short text{_absolute(report.parent)}. Size and memory are shares of float32's. The "
        "recommendation comes from recipes whose "
        f"worst cosine is at least {report.min_cosine:g}, that keep at least {report.min_overlap:.0%} of the neighbors, and "
        "whose vectors do not depend on the other texts of a batch: <i>batch</i> is 1 − cosine of a text alone with the same "
        "text among others, where that is more than rounding. ★: no other recipe is better in accuracy, speed and size "
        "together.</p>",
        '<div class="plots one">',
        f"<figure>{plot_front(report.parent, kept, report.front, report.chosen)}<figcaption>Filled points are beaten by none "
        "in accuracy, speed and size together; their area is the file's size; the red one is recommended.</figcaption>"
        "</figure>",
        f"<figure>{plot_histograms(kept, report.min_cosine)}<figcaption>How far each text's vector is from float32's. Texts "
        "beyond the dashed line, the bound, are red.</figcaption></figure>",
        "</div>",
        _damage(report),
        _storage(report),
        _dropped(report),
        f"<footer><p>Artifact <code>{escape(report.artifact)}</code>, digest <code>{escape(report.digest)}</code>; the sweep "
        f"took {report.seconds / 60:.1f} minutes</p><p>{escape(tools)}</p></footer></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _headline(report: SweepReport) -> str:
    """The recommended recipe's figures, large."""
    point = next((point for point in report.points if point.name == report.chosen), None)
    if point is None or point.quality is None or point.speed is None:
        return ""
    quality, speed, bytes_before = point.quality, point.speed, report.parent.file_bytes
    figures = [
        (f"{speed.ratio:.2f}×", f"throughput: {speed.short_ratio:.2f}× short, {speed.long_ratio:.2f}× long texts"),
        (f"{speed.latency_ms:.1f} ms", f"for one short text, {speed.latency_ratio:.2f}× sooner"),
        (f"{point.file_bytes / 1e6:,.0f} MB", f"instead of {bytes_before / 1e6:,.0f} MB"),
        (
            f"{quality.cosine_min:.4f}",
            f"cosine of the worst of {report.judged:,} texts; mean {quality.cosine_mean:.5f}",
        ),
        (f"{quality.overlap:.1%}", "of the ten nearest neighbors stay"),
    ]
    cells = "".join(f'<div class="figure"><b>{value}</b><span>{told}</span></div>' for value, told in figures)
    return f'<div class="figures">{cells}</div>'


def _points(report: SweepReport) -> str:
    headings = ["recipe", "#cosine mean", "#p1", "#worst", "#neighbors", "#Spearman"]
    headings += ["#judged pairs"] if report.pairs else []
    headings += ["#batch", "#short", "#long", "#latency", "#size", "#memory"]
    rows = [_row(report, report.parent)]
    rows += [_row(report, point) for point in report.points if point.quality is not None]
    return html_table(headings, rows)


def _absolute(parent: Point) -> str:
    speed = parent.speed
    if speed is None:
        return ""
    short, long = f"{speed.short_texts_per_s:,.0f} short texts", f"{speed.long_texts_per_s:,.0f} long ones a second"
    return f" (float32: {short}, {long}, {speed.latency_ms:.1f} ms)"


def _row(report: SweepReport, point: Point) -> str:
    quality, speed = point.quality, point.speed
    assert quality is not None and speed is not None
    parent = report.parent
    memory = (
        "" if not (point.memory_bytes and parent.memory_bytes) else f"{point.memory_bytes / parent.memory_bytes:.2f}"
    )
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
        (f"{point.size:.2f}", False),
        (memory, False),
    ]
    chosen = point.name == (report.chosen or parent.name)
    kind = "chosen" if chosen else "dropped" if point.dropped else ""
    mark = " ★" if point.name in report.front else ""
    fit = "" if point is parent or eligible(point, report.min_cosine, report.min_overlap) else " class=soft"
    body = "".join(f'<td class="number{" bad" if bad else ""}">{value}</td>' for value, bad in cells)
    return f'<tr class="{kind}"><td{fit} title="{escape(point.description)}">{escape(point.name)}{mark}</td>{body}</tr>'


def _damage(report: SweepReport) -> str:
    found = report.sensitivity
    if found is None:
        return ""
    return (
        "<h2>Damage by layer</h2>"
        f'<div class="plots one"><figure>{plot_damage(found)}<figcaption>Each matrix quantized by itself, on {found.texts} '
        "texts. Blue: attention (dark: queries, keys, values; light: output); orange: into the feed-forward part; red: out "
        "of it. Exclusions leave in float32 what costs most for its time.</figcaption></figure></div>"
    )


def _storage(report: SweepReport) -> str:
    if not report.storage:
        return ""
    rows = (
        f'<tr><td>{result.code}</td><td>{RESCORING[result.rescoring]}</td><td class="number">{result.bytes:,}</td>'
        f'<td class="number">{result.smaller:.0f}×</td><td class="number">{result.overlap:.1%}</td>'
        f'<td class="number">{1 - result.overlap:.1%}</td></tr>'
        for result in report.storage
    )
    table = html_table(("stored as", "searched", "#bytes a vector", "#smaller", "#found", "#lost"), rows)
    return (
        f"<h2>Stored vectors</h2><p>Of float32's ten nearest, what a search over quantized vectors finds: each of "
        f"{report.judged:,} vectors asks for the others. Ranges and thresholds come from {report.calibrating:,} other "
        f"texts and lie beside this page as <code>vectors.safetensors</code>.</p>{table}"
    )


def _dropped(report: SweepReport) -> str:
    items = [
        f"<li><b>{escape(point.name)}</b>: {escape(point.dropped)}</li>" for point in report.points if point.dropped
    ]
    items += [f"<li><b>{escape(name)}</b>: the budget had no time for it</li>" for name in report.not_reached]
    return f"<h2>Not kept</h2><ul>{''.join(items)}</ul>" if items else ""
