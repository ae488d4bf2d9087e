"""`recipe_table`, `table_legend`: write every recipe of a sweep as a row of a page, and explain the columns."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.pages import html_table

from ..measure.metrics import MAX_PAIRWISE, NEIGHBORS
from ..measure.spread import CONFIDENCE, Spread
from ..sweep.recommendation import INDEPENDENT, eligible
from ..sweep.results import Candidate, SweepReport
from ..sweep.ties import SAME_SPEED

__all__ = ["format_range", "recipe_table", "table_legend"]


def recipe_table(report: SweepReport) -> str:
    """Return the table as HTML: one row for float32 and one for each recipe that did not fail."""
    short, long, latency = _tokens(report)
    headings = ["recipe", "#cosine mean", "#p1", "#worst", "#neighbors", "#Spearman"]
    headings += ["#labeled pairs"] if report.pairs else []
    headings += ["#batch"]
    for figure, lengths in (
        ("throughput", "both lengths"),
        ("throughput", f"{short} tokens"),
        ("throughput", f"{long} tokens"),
        ("latency", f"{latency} tokens"),
    ):
        headings.append(f"#{figure}<small>{lengths}</small>")
    headings += ["#size", "#memory"]
    rows = [_row(report, report.parent)]
    rows += [_row(report, candidate) for candidate in report.candidates if candidate.quality is not None]
    return html_table(headings, rows)


def format_range(spread: Spread) -> str:
    """Return the range of a ratio as text."""
    return f"{spread.low:.2f}–{spread.high:.2f}"


def _tokens(report: SweepReport) -> tuple[int, int, int]:
    """Return the tokens of a short text, of a long text, and of the text whose latency is measured."""
    speed = report.parent.speed
    return (0, 0, 0) if speed is None else (speed.short_tokens, speed.long_tokens, speed.latency_tokens)


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
        *(
            (f"{ratio.median:.2f}" + ("" if candidate is parent else f"<small>{format_range(ratio)}</small>"), False)
            for ratio in (speed.throughput_ratio, speed.short_ratio, speed.long_ratio, speed.latency_ratio)
        ),
        (f"{candidate.size:.2f}", False),
        (memory, False),
    ]
    chosen = candidate.name == (report.chosen or parent.name)
    kind = "chosen" if chosen else "dropped" if candidate.dropped else ""
    mark = " ★" if candidate.name in report.pareto_front else ""
    fit = "" if candidate is parent or eligible(candidate, report.min_cosine, report.min_overlap) else " class=soft"
    body = "".join(f'<td class="number{" bad" if bad else ""}">{value}</td>' for value, bad in cells)
    rounds = "" if candidate is parent else f"; {speed.num_rounds} rounds"
    equal = "; equally fast" if candidate.name in report.equals else ""
    name = f"<td{fit}>{escape(candidate.name)}{mark}<small>{escape(candidate.description)}{rounds}{equal}</small></td>"
    return f'<tr class="{kind}">{name}{body}</tr>'


def table_legend(report: SweepReport) -> str:
    """Return the meaning of each column and mark as HTML."""
    short, long, latency = _tokens(report)
    compared = min(report.measured, MAX_PAIRWISE)
    terms = [
        (
            "cosine mean, p1, worst",
            f"cosine of a text's vector with float32's vector of it: the mean of the {report.measured:,} texts, the "
            "first percentile (99 of 100 texts have a higher one), and the lowest. The worst must be at least "
            f"{report.min_cosine:g}; a lower one is red.",
        ),
        (
            "neighbors",
            f"share of each text's {NEIGHBORS} nearest other texts that are also among its {NEIGHBORS} nearest with float32: "
            f"at least {report.min_overlap:.0%}; less is red.",
        ),
        (
            "Spearman",
            f"Spearman's rank correlation: all {compared * (compared - 1) // 2:,} pairs of {compared:,} texts are ordered "
            "by the cosine of their vectors, with this recipe and with float32. 1: the same order.",
        ),
        *(
            [
                (
                    "labeled pairs",
                    f"Spearman's rank correlation, times 100, of the cosines of the {report.pairs:,} given pairs with their "
                    "scores.",
                )
            ]
            if report.pairs
            else []
        ),
        (
            "batch",
            "1 − cosine between a text computed alone and the same text in a batch; “none” is only rounding. A vector that "
            "depends on the other texts of its batch is red, and its recipe is not recommended.",
        ),
        (
            "throughput",
            f"texts per second, relative to float32 in the same round{_absolute(report.parent)}, for texts of {short} "
            f"tokens, of {long} tokens, and of both together (geometric mean). Median of the rounds, and below it the range "
            f"that holds the median of very many rounds with a probability of at least {CONFIDENCE:.0%}. Recipes whose "
            f"ranges for both lengths overlap, or whose medians differ by less than {SAME_SPEED:.0%}, count as equally "
            "fast; of these the one with the highest mean cosine is recommended."
            f"{_further_rounds(report)}",
        ),
        (
            "latency",
            f"float32's latency of one text of {latency} tokens over this one's: above 1 is faster. The recommendation does "
            "not depend on it.",
        ),
        ("size", "size of graph and weights, relative to float32."),
        (
            "memory",
            "memory that a process gains by loading the model and computing, relative to float32. fp16 and bf16 halve the "
            "file and not the memory: their arithmetic is in float32, so the weights are widened to float32 when they are "
            "loaded, and the widening leaves some memory of its own behind.",
        ),
        (
            "★",
            "within the bounds, and no other recipe within the bounds is at least as accurate (cosine mean), fast and small. "
            "Names in gray are outside the bounds. The recommended recipe is bold.",
        ),
    ]
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in terms)}</dl>"


def _absolute(parent: Candidate) -> str:
    speed = parent.speed
    if speed is None:
        return ""
    short, long = speed.short_texts_per_s, speed.long_texts_per_s
    return (
        f" (float32: {short.median:,.0f} and {long.median:,.0f} texts per second, {short.low:,.0f} to {short.high:,.0f} and "
        f"{long.low:,.0f} to {long.high:,.0f} in {speed.num_rounds} rounds; latency {speed.latency_ms.median:.1f} ms)"
    )


def _further_rounds(report: SweepReport) -> str:
    """Return a sentence about the rounds that were run to distinguish recipes; empty if there were none."""
    if not report.tie_seconds:
        return ""
    return f" The fastest recipes within the bounds ran in turns for {report.tie_seconds:,.0f} s more, to distinguish them."
