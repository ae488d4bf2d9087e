"""`fletcher-convert`: checkpoints to artifacts, and the proof of them. Each command reads options and calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fletcher.model_zoo import Head, list_cards
from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.commandline.console import make_app, reporter, run
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError

from .quantize import quantize

if TYPE_CHECKING:
    from ..layers.results import LayersReport
    from ..verify.report import VerificationReport

app = make_app("fletcher-convert", "Turn text-embedding checkpoints into verified ONNX artifacts.")
model = typer.Typer(no_args_is_help=True, help="Models: what the zoo knows, conversion, verification, inspection.")
app.add_typer(model, name="model")
app.add_typer(quantize, name="quantize")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.", show_default=False)]


def main() -> None:
    """The command `fletcher-convert`."""
    run(app)


@model.command("list")
def list_models(ctx: typer.Context) -> None:
    """List the models of the zoo."""
    cards = list_cards()
    rows = [
        (
            card.name,
            card.family,
            card.dimension,
            card.max_tokens,
            "+".join(card.pooling),
            card.license,
            ", ".join(card.sources),
        )
        for card in cards
    ]
    columns = ("model", "family", "dimension", "max tokens", "pooling", "license", "sources")
    reporter(ctx).result(cards, Table(columns, rows))


@model.command("export")
def export_model(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A zoo name, a hub id org/name[@revision], pypi:DISTRIBUTION==VERSION, or a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The artifact's folder; an artifact there is replaced."),
    ],
    target: Annotated[
        list[str] | None, typer.Option(help="What it shall run on: cpu, cuda, tensorrt, coreml. Repeatable.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Of weights and arithmetic: fp32, fp16, bf16. Repeatable.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="For a checkpoint that does not say: mean, cls, …")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest input; a longer one is truncated.")] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="For a checkpoint that does not say what it is for: embedding, classification, splade, colbert."
        ),
    ] = None,
    exporter: Annotated[
        Literal["fletcher", "optimum"],
        typer.Option(help="optimum traces the encoder, for families that Fletcher does not author (extra `export`)."),
    ] = "fletcher",
) -> None:
    """Convert a checkpoint, and check what came out against its canary."""
    from ..export.export import ExportOptions, export

    report = reporter(ctx)
    options = ExportOptions(
        targets=target or ("cpu",),
        precisions=precision or ("fp32",),
        pooling=cast(PoolingMode | None, pooling),  # `ExportOptions` checks both
        max_tokens=max_tokens,
        head=cast(Head | None, head),
        exporter=exporter,
    )
    exported = export(source, output, options, progress=report)
    report.result(exported)
    if exported.unchecked:
        report.line(f"not run here, so that no canary was checked: {', '.join(exported.unchecked)}")
    if exported.status == "unverified":
        report.warn(f"not yet compared with HuggingFace: run `fletcher-convert model verify {output}`")


@model.command("verify")
def verify_model(
    ctx: typer.Context,
    folder: Folder,
    reference: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The checkpoint to compare with; by default the one converted.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your texts, txt or jsonl, besides the built-in ones.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Compare this variant only; nothing is recorded then.")] = None,
    save: Annotated[
        list[Path] | None, typer.Option("--report", metavar="FILE", help="Write a report: .html or .json. Repeatable.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Compare every value inside the graph instead, and name the first wrong one."),
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="With --on: compare two variants, this one taken for right.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="With --against: the variant whose every value is compared.")
    ] = None,
) -> None:
    """Compare an artifact with the HuggingFace model in float32, and record it in the artifact if they agree."""
    from ..layers.verify import compare_variants, verify_layers
    from ..reports.verification_table import render, to_json, write_report
    from ..texts import read_texts
    from ..verify.verify import verify

    report = reporter(ctx)
    extra = () if texts is None else read_texts(texts)
    result: VerificationReport | LayersReport
    if against is not None and on is not None:
        if reference is not None or variant is not None:
            raise InputError(
                "--against and --on compare two variants of the artifact: leave out --reference and --variant"
            )
        result = compare_variants(folder, against=against, on=on, texts=extra, progress=report)
    elif against is not None or on is not None:
        raise InputError("--against and --on belong together: name the variant that is right, and the one to judge")
    elif layers:
        result = verify_layers(folder, reference=reference, texts=extra, variant=variant, progress=report)
    else:
        result = verify(folder, reference=reference, texts=extra, variant=variant, progress=report)
    for file in save or ():
        write_report(result, file)
        report.line(f"wrote {file}")
    if report.as_json:
        typer.echo(to_json(result).decode())
    else:
        from rich.console import Console

        Console().print(render(result))
    result.raise_if_failed()


@model.command("inspect")
def inspect_model(ctx: typer.Context, folder: Folder) -> None:
    """Show what an artifact holds, and check its files."""
    report = reporter(ctx)
    artifact = Artifact.open(folder)
    artifact.check_files()
    manifest = artifact.manifest
    if report.as_json:
        report.result(
            {"path": artifact.path, "digest": artifact.digest, "status": manifest.status, "manifest": manifest}
        )
        return
    card = manifest.card
    facts: dict[str, Any] = {
        "model": card.name,
        "source": manifest.origin.source,
        "revision": manifest.origin.revision,
        "license": card.license,
        "output": card.output,
        "dimension": card.dimension,
        "matryoshka": card.matryoshka,
        "max_tokens": card.max_tokens,
        "pooling": card.pooling,
        "normalize": card.normalize,
        "prompts": {name: repr(prompt) for name, prompt in card.prompts.items()},
        "status": manifest.status,
        "digest": artifact.digest,
        "tools": manifest.tools,
    }
    report.result(facts)
    variants = [(v.name, v.exporter, v.file, v.weights, v.measured.get("cosine_min")) for v in manifest.variants]
    report.result(
        variants, Table(("variant", "exporter", "graph", "weights", "min cosine"), variants, title="\nvariants")
    )
    files = [(name, info.size, info.sha256) for name, info in manifest.files.items()]
    report.result(files, Table(("file", "bytes", "sha256"), files, title="\nfiles (all as written)"))
