"""`ingest_to_html`: summary of an ingest job as a page."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.bars import Bar, bars
from fletcher.runtime.commandline.pages import Page, figure, figures, html_table, to_html

from .summary import IngestSummary

__all__ = ["ingest_to_html"]


def ingest_to_html(summary: IngestSummary) -> str:
    """Return the page."""
    places = (
        ("sent", summary.sent, "embedded and acknowledged in this run"),
        ("known", summary.known, "in Longbow from an earlier run"),
        ("duplicates", summary.duplicates, "as an earlier document of the input"),
        ("failed", summary.failed, "could not be used; the dead-letter file has them"),
    )
    changes = (
        ("replaced", summary.replaced, "documents whose former content was deleted"),
        ("removed", summary.removed, "documents that the input no longer has"),
        ("cut", summary.truncated_texts, "texts that are longer than the model's limit"),
        ("retries", summary.retries, "streams that failed and were opened again"),
        ("missing", summary.missing, "rows that Longbow acknowledged and does not have"),
        ("doubled", summary.doubled, "rows that arrived twice"),
        ("surplus", summary.surplus, "entries of the index that other programs wrote"),
    )
    body = (
        f'<tr{" class=bad" if name == "missing" and count else ""}><td>{name}</td><td class="number">{count or 0:,}</td>'
        f"<td>{text}</td></tr>"
        for name, count, text in (*places, *changes)
    )
    return to_html(
        Page(
            title=f"{summary.dataset}: ingest job",
            sentences=[_sentence(summary)],
            about=f"{escape(summary.model)}, {escape(summary.variant)}",
            verdict="failed" if summary.missing else "",
            parts=(
                figures(
                    (
                        (f"{summary.rows_per_second:,.0f}", "documents per second"),
                        (f"{summary.tokens_per_second:,.0f}", "tokens per second"),
                        (f"{summary.tokens:,}", "tokens that the model processed"),
                        (f"{summary.seconds:,.0f} s", "until the count at the end"),
                    )
                ),
                figure(
                    bars(
                        "documents of the input",
                        [Bar(name, count, f"{count:,}", chosen=name == "sent") for name, count, _ in places],
                    ),
                    f"The {summary.read:,} documents of the input.",
                ),
                "<h2>All counts</h2>",
                html_table(("", "#documents or rows", ""), body),
            ),
        )
    )


def _sentence(summary: IngestSummary) -> str:
    """Return the result as a sentence."""
    if summary.missing:
        return (
            f"The dataset {summary.dataset} lacks {summary.missing:,} rows that Longbow acknowledged: run the job again"
        )
    rest = f"; {summary.failed:,} could not be used" if summary.failed else ""
    return (
        f"The dataset {summary.dataset} has the {summary.read - summary.failed:,} usable documents of the input: "
        f"{summary.sent:,} were sent, {summary.known:,} were there, and {summary.duplicates:,} are duplicates{rest}"
    )
