"""Style and tables of the HTML pages that Fletcher writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["STYLE", "html_table"]

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #e1e5ea; --good: #14724a; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; color: var(--soft); font-weight: 600; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
code { font: .87em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.verdict { display: inline-block; border-radius: 99px; padding: .1rem .7rem; font-size: .8rem; font-weight: 600;
  color: #fff; background: var(--good); vertical-align: .15em; margin-left: .6rem; }
.verdict.failed { background: var(--bad); }
.verdict.not-checked { background: var(--soft); }
ul.reasons { color: var(--bad); margin: .5rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; }
.figure { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.figure b { display: block; font-size: 1.12rem; font-variant-numeric: tabular-nums; }
.figure span { color: var(--soft); font-size: .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.25rem; margin-top: 1.25rem; }
.plots figure { margin: 0; } .plots svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .82rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .32rem .6rem .32rem 0; vertical-align: top; }
th.number, td.number { text-align: right; white-space: nowrap; } td.bar { width: 34%; vertical-align: middle; }
td.bar div { background: #8fb4e3; border-radius: 2px; height: .6rem; }
footer { color: var(--soft); font-size: .82rem; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
"""


def html_table(headings: Sequence[str], body: Iterable[str]) -> str:
    """Return a table as HTML. A heading that starts with `#` marks a column of numbers.

    Args:
        headings: headings of the columns, as HTML.
        body: rows, as HTML.
    """
    head = "".join(
        f'<th class="number">{heading[1:]}</th>' if heading.startswith("#") else f"<th>{heading}</th>"
        for heading in headings
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
