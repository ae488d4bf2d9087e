"""`bench_to_html`: result of a benchmark as a page."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.bars import Bar, bars
from fletcher.runtime.commandline.pages import Page, figure, figures, html_table, to_html

from .results import BenchResult, Figures, stages, table

__all__ = ["bench_to_html"]


def bench_to_html(result: BenchResult) -> str:
    """Return the page."""
    measured = [one for one in result.participants if one.problem is None]
    rows = table(result)
    body = ("<tr>" + "".join(_cell(cell, place) for place, cell in enumerate(row)) + "</tr>" for row in rows.rows)
    return to_html(
        Page(
            title=f"{result.model}: benchmark",
            sentences=[_sentence(result, measured)],
            about=f"{result.texts:,} texts of {result.tokens / max(result.texts, 1):.0f} tokens on average "
            f"({escape(result.corpus)}), {result.rounds} rounds on {result.processors} processors. Participants took turns, "
            "each in a process of its own.",
            parts=(
                figures(
                    (
                        (f"{result.throughput_texts_per_s:,.0f}", "texts per second"),
                        (f"{result.tokens_per_s:,.0f}", "tokens per second"),
                        (f"{result.latency_p50_ms:.2f} ms", "one text, median"),
                        (f"{result.latency_p99_ms:.2f} ms", "one text, 99th percentile"),
                        (f"{result.peak_rss_mb:,.0f} MB", "peak memory"),
                    )
                ),
                '<div class="plots">',
                figure(
                    bars("texts per second", [_bar(one, one.throughput_texts_per_s, ",.0f") for one in measured]),
                    "Texts per second on the whole corpus, median of the rounds: longer is better.",
                ),
                figure(
                    bars("milliseconds of one text", [_bar(one, one.latency_p50_ms, ".2f") for one in measured]),
                    "Milliseconds of a single text, median: shorter is better.",
                ),
                "</div>",
                "<h2>All participants</h2>",
                html_table(
                    [
                        escape(name) if place in (0, 9) else f"#{escape(name)}"
                        for place, name in enumerate(rows.columns)
                    ],
                    body,
                ),
                '<p class="soft">ratio: throughput of Fletcher divided by that of the participant in the same round, median '
                f"of the rounds. cosine: smallest cosine with the vectors of {escape(result.reference)} in a sample.</p>",
                f"<p>{escape(stages(result.participants[0]).capitalize())}.</p>",
            ),
            footer=[f"{escape(one.name)}: {escape(one.versions)}" for one in result.participants if one.versions],
        )
    )


def _sentence(result: BenchResult, measured: list[Figures]) -> str:
    """Return the result as a sentence, with the fastest other participant."""
    text = (
        f"Fletcher embeds {result.throughput_texts_per_s:,.0f} texts per second with {result.model} on {result.processors} "
        f"processors, and one text takes {result.latency_p50_ms:.1f} ms"
    )
    others = [one for one in measured[1:] if one.ratio is not None and one.throughput_texts_per_s is not None]
    if not others:
        return text
    best = max(others, key=lambda one: one.throughput_texts_per_s or 0.0)
    return f"{text}; that is {best.ratio:.2f} times the throughput of {best.name}, the fastest other participant"


def _bar(one: Figures, value: float | None, spec: str) -> Bar:
    return Bar(one.name, value or 0.0, format(value or 0.0, spec), chosen=one.name == "fletcher")


def _cell(text: object, place: int) -> str:
    return f"<td{'' if place in (0, 9) else ' class=number'}>{escape(str(text))}</td>"
