"""Verification report as a table for the terminal, a JSON file or an HTML page. It computes no figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fletcher.runtime.commandline.report_files import check_reports
from fletcher.runtime.commandline.report_files import write_report as write_file

from ..layers.results import LayersReport
from ..verify.report import SettingResult, VariantResult, VerificationReport
from .layers_page import layers_to_html
from .layers_table import render_layers
from .verification_page import to_html

__all__ = ["render", "write_report"]

#: Styles of verdicts; others are failures.
STYLES = {"passed": "bold green", "not checked": "yellow"}


def render(report: VerificationReport | LayersReport) -> RenderableType:
    """Render a column for each variant, the worst text, the exercised settings and the verdict; or a row for each point."""
    if isinstance(report, LayersReport):
        return render_layers(report)
    # A column a variant: seven figures side by side would not fit a terminal of 80 columns.
    table = Table(title=f"{report.model} against {report.reference}", title_justify="left")
    table.add_column("against the reference in float32")
    for variant in report.variants:
        table.add_column(variant.name, justify="right")
    figures: tuple[tuple[str, Callable[[VariantResult], str]], ...] = (
        ("cosine, smallest", lambda variant: f"{variant.cosine_min:.9f}"),
        ("cosine, first percentile", lambda variant: f"{variant.cosine_p1:.9f}"),
        ("cosine, mean", lambda variant: f"{variant.cosine_mean:.9f}"),
        ("max abs difference", lambda variant: f"{variant.max_abs:.1e}"),
        ("alone against in a batch, max abs", lambda variant: f"{variant.batch_max_abs:.1e}"),
        (
            "provider against provider, max abs",
            lambda variant: "one provider" if variant.providers_max_abs is None else f"{variant.providers_max_abs:.1e}",
        ),
        ("ten nearest neighbors agree", lambda variant: f"{variant.neighbors:.2%}"),
        ("Spearman of pairwise similarities", lambda variant: f"{variant.spearman:.6f}"),
    )
    for name, show in figures:
        table.add_row(name, *map(show, report.variants))
    table.add_section()
    table.add_row("verdict", *(_verdict(variant.verdict) for variant in report.variants))
    ids = report.tokenizer
    lines = [f"reference: {report.method}, one text at a time", *report.notes]
    lines += [f"token ids equal on {ids.equal} of {ids.compared} texts, {ids.truncated} of them truncated"]
    lines += [ids.reason] if ids.reason else []
    lines += [
        f"not compared, because the reference refuses it: {text.text!r} ({text.input_type}): {text.reason}"
        for text in report.refused
    ]
    for variant in report.variants:
        worst = variant.worst
        lines.append(
            f"{variant.name}: worst text {worst.text!r} ({worst.tokens} tokens): "
            f"cosine {worst.cosine:.7f}, max abs {worst.max_abs:.1e}"
        )
        lines += [
            f"{variant.name}: {one.output}: cosine at least {one.cosine_min:.9f}, max abs {one.max_abs:.1e}, "
            f"alone against in a batch {one.batch_max_abs:.1e}"
            for one in variant.further
        ]
        lines += [f"{variant.name}: {reason}" for reason in variant.reasons]
    if not report.complete:
        lines.append("not every variant was compared, so the artifact is not stamped")
    lines += [report.likely] if report.likely else []
    return Group(
        table,
        *map(Text, lines),
        *([_settings(report.settings)] if report.settings else []),
        Text.assemble("verdict: ", _verdict(report.verdict)),
    )


def _settings(results: Sequence[SettingResult]) -> Table:
    """Render a row for each setting or file of the checkpoint."""
    table = Table(title="settings and files of the checkpoint", title_justify="left")
    for name in ("setting", "exercised by", "texts", "verdict"):
        table.add_column(name, justify="right" if name == "texts" else "left", overflow="fold")
    for result in results:
        texts = f"{result.failed} of {result.texts}" if result.failed else f"{result.texts}"
        table.add_row(result.setting, result.exercised_by or result.note, texts, _verdict(result.verdict))
    return table


def write_report(report: VerificationReport | LayersReport, path: str | Path) -> None:
    """Write the report by the file's suffix: `.json`, or `.html` for a page that needs no network.

    Raises:
        InputError: the suffix is another one, or the file cannot be written.
        MissingPackageError: matplotlib, which a page needs, is not installed.
    """
    path = Path(path)
    check_reports([path])
    write_file(report, path, lambda: layers_to_html(report) if isinstance(report, LayersReport) else to_html(report))


def _verdict(verdict: str) -> Text:
    return Text(verdict, style=STYLES.get(verdict, "bold red"))
