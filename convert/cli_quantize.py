"""`fletcher-convert quantize`: smaller and faster variants. Each command reads options and calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.console import reporter
from fletcher.runtime.reporter import Table

__all__ = ["quantize"]

quantize = typer.Typer(no_args_is_help=True, help="Smaller and faster variants, and what they cost in accuracy.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The float32 artefact's folder.", show_default=False)]
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
        typer.Option("--output", "-o", metavar="DIR", help="The new artefact's folder; an artefact there is replaced."),
    ],
    recipe: Recipe = "int8-per-token",
    texts: Texts = None,
) -> None:
    """Quantise an artefact by one recipe, and measure it against its parent."""
    from fletcher.quantize.recipe import load_recipe
    from fletcher.quantize.run import quantise

    from .texts import read_texts

    report = reporter(ctx)
    given = None if texts is None else read_texts(texts)
    result = quantise(folder, load_recipe(recipe), output, texts=given, reporter=report)
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
    """Measure the damage that each matrix does, with only that matrix quantised."""
    from fletcher.quantize.recipe import load_recipe
    from fletcher.quantize.sensitivity import exclude_greedily, plot_sensitivity, sensitivity

    from .texts import read_texts

    report = reporter(ctx)
    given = None if texts is None else read_texts(texts)
    with report.progress("measuring", units=("matrices",)) as progress:
        found = sensitivity(folder, load_recipe(recipe), texts=given, advance=lambda done, total: progress.advance(1))
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
