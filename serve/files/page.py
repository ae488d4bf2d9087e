"""`embed_to_html`: summary of a bulk job as a page."""

from __future__ import annotations

from html import escape

from fletcher.runtime.commandline.bars import Bar, bars
from fletcher.runtime.commandline.pages import Page, figure, figures, to_html

from .embed_file import EmbedSummary

__all__ = ["embed_to_html"]


def embed_to_html(summary: EmbedSummary) -> str:
    """Return the page."""
    whole, cut = summary.texts - summary.truncated_texts, summary.truncated_texts
    lost = "no text was cut"
    if cut:
        lost = f"{cut:,} texts were too long for the model, and {summary.dropped_tokens:,} of their tokens were cut off"
    return to_html(
        Page(
            title=f"{summary.output.name}: embedding job",
            sentences=[
                f"{summary.texts:,} texts have vectors of {summary.dimension:,} dimensions, made in {summary.seconds:,.1f} "
                f"s; {lost}"
            ],
            about=f"{escape(summary.model)}, {escape(summary.variant)} on {escape(summary.provider)}",
            parts=(
                figures(
                    (
                        (f"{summary.texts_per_second:,.0f}", "texts per second"),
                        (f"{summary.tokens_per_second:,.0f}", "tokens per second"),
                        (f"{summary.tokens:,}", "tokens that the model processed"),
                        (f"{summary.tokens / max(summary.texts, 1):.1f}", "tokens of a text, mean"),
                    )
                ),
                '<div class="plots">',
                figure(
                    bars("texts", [Bar("whole", whole, f"{whole:,}", chosen=True), Bar("cut", cut, f"{cut:,}")]),
                    "Texts that are whole in their vectors, and texts that were cut.",
                ),
                figure(
                    bars(
                        "tokens",
                        [
                            Bar("in the vectors", summary.tokens, f"{summary.tokens:,}", chosen=True),
                            Bar("cut off", summary.dropped_tokens, f"{summary.dropped_tokens:,}"),
                        ],
                    ),
                    "Tokens that the vectors contain, and tokens that were cut off.",
                ),
                "</div>",
            ),
            footer=(
                f"File <code>{escape(str(summary.output))}</code>",
                f"Space of the vectors <code>{escape(summary.space)}</code>",
            ),
        )
    )
