"""`Page`: the one look of Fletcher's reports as HTML. A page needs no network, and is for paper, phones and dark screens.

A page begins with the sentences that say the result. Plots are SVG elements (`plots.py`, `bars.py`) in the page's colors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Page", "figure", "figures", "html_table", "to_html", "verdict_badge"]

#: Colors: those of paper first, then those of a screen whose user prefers dark pages.
LIGHT = """--paper: #ffffff; --ink: #1b1f24; --soft: #5b6570; --line: #e1e5ea; --grid: #eceff2; --tint: #f3f8f5;
  --good: #14724a; --bad: #b3261e; --fill-good: #14724a; --fill-bad: #b3261e; --fill-soft: #5b6570;
  --blue: #2f6db5; --red: #b3261e; --green: #14724a; --pale: #8fb4e3; --orange: #c98a1b; --amber: #e0b45c;"""
DARK = """--paper: #14181d; --ink: #e7eaee; --soft: #9fabb7; --line: #343c45; --grid: #252c34; --tint: #17261f;
  --good: #56c490; --bad: #ff8a80; --fill-good: #1b7d54; --fill-bad: #b8342b; --fill-soft: #56616c;
  --blue: #74a9ea; --red: #ff8a80; --green: #56c490; --pale: #3f6ea6; --orange: #e3a94a; --amber: #a8812f;"""

STYLE = (
    f"""
:root {{ color-scheme: light; {LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {DARK} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; letter-spacing: -.01em; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; color: var(--soft); font-weight: 600; }
p { margin: .25rem 0; } .soft, small { color: var(--soft); } small { font-weight: 400; }
code { font: .87em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.result { border-left: 4px solid var(--good); background: var(--tint); padding: .8rem 1.1rem; margin: 1rem 0;
  font-size: 1.05rem; }
.result.failed { border-color: var(--bad); background: none; }
.verdict { display: inline-block; border-radius: 99px; padding: .1rem .7rem; font-size: .8rem; font-weight: 600;
  color: #fff; background: var(--fill-good); vertical-align: .15em; margin-left: .6rem; letter-spacing: 0; }
.verdict.failed { background: var(--fill-bad); } .verdict.not-checked { background: var(--fill-soft); }
ul.reasons { color: var(--bad); margin: .5rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(9.5rem, 100%), 1fr)); gap: .75rem;
  margin: 1rem 0; }
.figure { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.figure b { display: block; font-size: 1.12rem; font-variant-numeric: tabular-nums; }
.figure span { color: var(--soft); font-size: .8rem; }
figure { margin: 1.25rem 0 0; min-width: 0; } .plot, .wide { overflow-x: auto; }
.wide { margin: .75rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem;
  margin-top: 1.25rem; }
.plots figure { margin: 0; } .plots.one { grid-template-columns: minmax(0, 1fr); max-width: 46rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); }
figcaption { color: var(--soft); font-size: .82rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .32rem .6rem .32rem 0; vertical-align: top; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.bar { width: 34%; min-width: 5rem; vertical-align: middle; }
td.bar div { background: var(--pale); border-radius: 2px; height: .6rem; }
td.bad, tr.bad td { color: var(--bad); font-weight: 600; }
footer { color: var(--soft); font-size: .82rem; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media screen and (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; } h1 { font-size: 1.35rem; }
  .wide td { min-width: 4.5rem; } .wide td code { white-space: nowrap; } .wide td.bar { min-width: 5rem; }
}
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .plot, .wide { overflow: visible; } svg { min-width: 0 !important; }
  table { font-size: 7.5pt; }
  tr, figure, .figure, .result { break-inside: avoid; } h2, h3 { break-after: avoid; } thead { display: table-header-group; }
  button { display: none; } footer { margin-top: 1.5rem; }
}
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report.

    Attributes:
        title: heading, and title of the window.
        sentences: sentences that say the result, as text, with or without a period.
        about: what was measured and with what, as HTML.
        verdict: verdict that stands beside the heading, such as `passed`; empty for none.
        parts: what follows, as HTML.
        footer: last paragraphs, as HTML.
        style: styles of this page alone.
    """

    title: str
    sentences: Sequence[str]
    about: str = ""
    verdict: str = ""
    parts: Iterable[str] = ()
    footer: Iterable[str] = ()
    style: str = ""


def to_html(page: Page) -> str:
    """Return a report as HTML."""
    footer = "".join(f"<p>{paragraph}</p>" for paragraph in page.footer)
    failed = " failed" if page.verdict == "failed" else ""
    parts = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(page.title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}{page.style}</style></head><body>",
        f"<header><h1>{escape(page.title)}{verdict_badge(page.verdict) if page.verdict else ''}</h1>",
        *(f'<p class="result{failed}">{escape(_sentence(sentence))}</p>' for sentence in page.sentences),
        f'<p class="soft">{page.about}</p>' if page.about else "",
        "</header><main>",
        *page.parts,
        "</main>",
        f"<footer>{footer}</footer>" if footer else "",
        "</body></html>\n",
    )
    return "\n".join(part for part in parts if part)


def html_table(headings: Sequence[str], body: Iterable[str]) -> str:
    """Return a table as HTML; one that is wider than the page scrolls. A heading that starts with `#` marks numbers.

    Args:
        headings: headings of the columns, as HTML.
        body: rows, as HTML.
    """
    head = "".join(
        f'<th class="number">{heading[1:]}</th>' if heading.startswith("#") else f"<th>{heading}</th>"
        for heading in headings
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def figures(values: Iterable[tuple[str, str]]) -> str:
    """Return figures in large type as HTML.

    Args:
        values: each figure, and what it is, as text.
    """
    tiles = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in values
    )
    return f'<div class="figures">{tiles}</div>' if tiles else ""


def figure(plot: str, caption: str) -> str:
    """Return a plot with its caption as HTML.

    Args:
        plot: SVG element.
        caption: description, as HTML.
    """
    return f'<figure><div class="plot">{plot}</div><figcaption>{caption}</figcaption></figure>'


def verdict_badge(verdict: str) -> str:
    """Return a verdict as HTML: `passed`, `failed` or `not checked`."""
    return f'<span class="verdict {escape(verdict.replace(" ", "-"))}">{escape(verdict)}</span>'


def _sentence(text: str) -> str:
    """Return a sentence with its period."""
    return text if text.endswith(".") else f"{text}."
