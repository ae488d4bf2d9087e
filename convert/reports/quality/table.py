"""Quality report as a table for the terminal, a JSON file or an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fletcher.runtime.commandline.report_files import check_reports, write_report

from ...quality.quality import Measured
from ...quality.results import QualityResult
from .figures import compressed_rows, figure_rows
from .page import quality_to_html

__all__ = ["render_quality", "write_quality"]

#: Columns of the table of shorter vectors, the last two with judgments.
COMPRESSED = ("vectors", "length", "float32", "float16", "int8", "binary", "nDCG", "nDCG, int8")


def render_quality(result: QualityResult) -> RenderableType:
    """Render the sentences, a row for each figure, and the shorter vectors of each artifact."""
    reports = result.reports
    table = Table()
    table.add_column("")
    for report in reports:
        table.add_column(Path(report.artifact).name, justify="right")
    group = ""
    for name, figure, values in figure_rows(reports):
        if name != group:
            table.add_section()
            group = name
        table.add_row(f"{name}: {figure}", *values)
    parts: list[RenderableType] = [Text(report.sentence) for report in reports]
    if result.comparison is not None:
        parts.append(Text(result.comparison.sentence))
    parts.append(table)
    for report in reports:
        shorter = Table(
            title=f"{Path(report.artifact).name}: share of the ten neighbors that stay", title_justify="left"
        )
        rows = compressed_rows(report)
        for name in COMPRESSED[: len(rows[0])]:
            # The first column keeps its width, and long headings are wrapped.
            shorter.add_column(name, justify="left" if name == "vectors" else "right", no_wrap=name == "vectors")
        for row in rows:
            shorter.add_row(*row)
        parts.append(shorter)
    return Group(*parts)


def write_quality(result: QualityResult, measured: Sequence[Measured], path: Path) -> None:
    """Write the report by the file's suffix, `.json` or `.html`. A missing folder is created.

    Args:
        result: the report.
        measured: texts and maps, for a page.
        path: the file.

    Raises:
        InputError: the suffix is another one.
        MissingPackageError: matplotlib, which a page needs, is not installed.
    """
    check_reports([path])
    write_report(result, path, lambda: quality_to_html(result, measured))
