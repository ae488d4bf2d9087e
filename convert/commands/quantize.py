"""Commands of `fletcher-convert quantize`: make smaller and faster variants. Each reads options and calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Table

__all__ = ["quantize"]

quantize = typer.Typer(no_args_is_help=True, help="Make smaller and faster variants, and measure their accuracy.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the float32 artifact.", show_default=False)]
Recipe = Annotated[
    str, typer.Option(metavar="NAME", help="Built-in recipe (quantize recipes lists them), or a TOML file.")
]
Texts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="File of texts, txt or jsonl, to calibrate and measure with. Default: built-in texts."
    ),
]


@quantize.command("run")
def run_recipe(
    ctx: typer.Context,
    folder: Folder,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the new artifact. An artifact in it is replaced."
        ),
    ],
    recipe: Recipe = "int8-per-token",
    texts: Texts = None,
) -> None:
    """Quantize an artifact by one recipe, and compare it with the original."""
    from fletcher.quantize.quantized_artifact import quantize

    from ..texts import read_texts

    report = reporter(ctx)
    given = None if texts is None else read_texts(texts)
    result = quantize(folder, output, recipe, texts=given, progress=report)
    report.result(result)
    if note := result.explain_canary():
        report.line(note)
    if result.batch_dependent:
        report.warn("a text's vector depends on the other texts of its batch: int8-per-token has no such fault")


@quantize.command("recipes")
def list_recipes(ctx: typer.Context) -> None:
    """List the built-in recipes."""
    from fletcher.quantize.recipe import builtin_recipes

    recipes = builtin_recipes()
    rows = [(recipe.name, recipe.scheme, recipe.target, recipe.description) for recipe in recipes.values()]
    reporter(ctx).result(list(recipes.values()), Table(("recipe", "scheme", "target", "description"), rows))


@quantize.command("sensitivity")
def show_sensitivity(
    ctx: typer.Context,
    folder: Folder,
    recipe: Recipe = "int8-per-token",
    texts: Texts = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest allowed 1 - mean cosine. The matrices to exclude for it are listed. Default: none are listed.",
        ),
    ] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option(
            "--report", metavar="FILE", help="Report to write, .json, .png or .svg. Repeatable. Default: none."
        ),
    ] = None,
) -> None:
    """Measure the loss of accuracy of each matrix, with only that matrix quantized."""
    from fletcher.quantize.sensitivity import exclude_greedily, plot_sensitivity, sensitivity

    from ..texts import read_texts

    report = reporter(ctx)
    given = None if texts is None else read_texts(texts)
    found = sensitivity(folder, recipe, texts=given, progress=report)
    for file in save or ():
        plot_sensitivity(found, file)
        report.line(f"wrote {file}")
    rows = [
        (damage.matrix, damage.scheme, f"{damage.loss:.2e}", f"{damage.worst:.2e}", f"{damage.work:.1%}")
        for damage in found.damages
    ]
    report.result(found, Table(("matrix", "scheme", "loss of cosine", "worst text", "work"), rows))
    if max_loss is not None:
        names = exclude_greedily(found, max_loss)
        report.line("exclude = [" + ", ".join(f'"{name}"' for name in names) + "]")


@quantize.command("sweep")
def run_sweep(
    ctx: typer.Context,
    folder: Folder,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the sweep: a new one, or that of an interrupted sweep, which is continued.",
        ),
    ],
    texts: Texts = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of judged pairs for a rank correlation, with a line score<TAB>text<TAB>text each. Default: none.",
        ),
    ] = None,
    min_cosine: Annotated[float, typer.Option(min=0, max=1, help="Smallest cosine of any text with float32.")] = 0.995,
    min_overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Smallest share of the ten nearest neighbors in float32 that must be found."),
    ] = 0.95,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="Minutes after which no recipe may end; longer ones are skipped. Default: no limit.",
        ),
    ] = None,
    tie_minutes: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="Longest time of further rounds between the fastest recipes, while their speeds cannot be distinguished. "
            "0: none.",
        ),
    ] = 2.0,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Recipe to try, built-in or a TOML file. Repeatable. Default: all that run on processors.",
        ),
    ] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option(
            "--report", metavar="FILE", help="Another report to write, .html or .json. Repeatable. Default: none."
        ),
    ] = None,
) -> None:
    """Try recipes on texts and this machine, recommend one, and write its artifact and a report."""
    from fletcher.quantize.measure.pairs import read_pairs
    from fletcher.quantize.measure.texts import BUILT_IN
    from fletcher.quantize.reports.sweep_table import render_sweep, write_sweep
    from fletcher.quantize.sweep.options import SweepOptions
    from fletcher.quantize.sweep.sweep import sweep
    from fletcher.runtime.commandline.report_files import check_reports

    from ..texts import read_texts

    report = reporter(ctx)
    files = [output / "report.html", output / "report.json", *(save or ())]
    check_reports(files)  # before minutes of measuring
    options = SweepOptions(
        min_cosine=min_cosine,
        min_overlap=min_overlap,
        budget_seconds=None if budget is None else 60 * budget,
        tie_seconds=60 * tie_minutes,
        recipes=tuple(recipe or ()),
    )
    found = sweep(
        folder,
        output,
        options,
        texts=None if texts is None else read_texts(texts),
        name=BUILT_IN if texts is None else texts.name,
        pairs=None if pairs is None else read_pairs(pairs),
        progress=report,
    )
    for file in files:
        write_sweep(found, file)
        report.line(f"wrote {file}")
    report.result(found, render_sweep(found))
    report.line(found.sentence)
