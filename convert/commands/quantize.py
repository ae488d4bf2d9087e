"""`fletcher-convert quantize`: smaller and faster variants. Each command reads options and calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Table

__all__ = ["quantize"]

quantize = typer.Typer(no_args_is_help=True, help="Smaller and faster variants, and what they cost in accuracy.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The float32 artifact's folder.", show_default=False)]
Recipe = Annotated[
    str, typer.Option(metavar="NAME", help="A built-in recipe (`quantize recipes` lists them), or a TOML file.")
]
Texts = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Your texts, txt or jsonl, to calibrate and measure with; else built-in ones."),
]


@quantize.command("run")
def run_recipe(
    ctx: typer.Context,
    folder: Folder,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The new artifact's folder; an artifact there is replaced."),
    ],
    recipe: Recipe = "int8-per-token",
    texts: Texts = None,
) -> None:
    """Quantize an artifact by one recipe, and measure it against its parent."""
    from fletcher.quantize.quantized_artifact import quantize

    from ..texts import read_texts

    report = reporter(ctx)
    given = None if texts is None else read_texts(texts)
    result = quantize(folder, output, recipe, texts=given, progress=report)
    report.result(result)
    if result.batch_dependent:
        report.warn("a text's vector depends on the other texts of its batch: int8-per-token has no such fault")


@quantize.command("recipes")
def list_recipes(ctx: typer.Context) -> None:
    """List the built-in recipes."""
    from fletcher.quantize.recipe import builtin_recipes

    recipes = builtin_recipes()
    rows = [(recipe.name, recipe.scheme, recipe.target, recipe.description) for recipe in recipes.values()]
    reporter(ctx).result(list(recipes.values()), Table(("recipe", "scheme", "target", "what it is"), rows))


@quantize.command("sensitivity")
def show_sensitivity(
    ctx: typer.Context,
    folder: Folder,
    recipe: Recipe = "int8-per-token",
    texts: Texts = None,
    max_loss: Annotated[
        float | None, typer.Option(min=0, help="Also name the matrices to exclude for at most this 1 - mean cosine.")
    ] = None,
    save: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Write it: .json, .png or .svg. Repeatable.")
    ] = None,
) -> None:
    """Measure the damage that each matrix does, with only that matrix quantized."""
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
            help="The sweep's folder: new, or that of an interrupted one to go on with.",
        ),
    ],
    texts: Texts = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judged pairs: score<TAB>text<TAB>text a line, for a rank correlation."),
    ] = None,
    min_cosine: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest cosine with float32 that a text may be left with.")
    ] = 0.995,
    min_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of float32's ten nearest neighbors.")
    ] = 0.95,
    budget: Annotated[
        float | None, typer.Option(min=0, metavar="MINUTES", help="Begin no recipe that would end later.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these, built-in or TOML files; else all for processors. Repeatable."),
    ] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="FILE", help="Write it here too: .html or .json. Repeatable."),
    ] = None,
) -> None:
    """Try recipes on your texts and this machine, recommend one, and write its artifact and a report."""
    from fletcher.quantize.measure.pairs import read_pairs
    from fletcher.quantize.measure.texts import BUILT_IN
    from fletcher.quantize.reports.sweep_table import check_reports, render_sweep, write_sweep
    from fletcher.quantize.sweep.options import SweepOptions
    from fletcher.quantize.sweep.sweep import sweep

    from ..texts import read_texts

    report = reporter(ctx)
    files = [output / "report.html", output / "report.json", *(save or ())]
    check_reports(files)  # before ten minutes of measuring
    options = SweepOptions(
        min_cosine=min_cosine,
        min_overlap=min_overlap,
        budget_seconds=None if budget is None else 60 * budget,
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
