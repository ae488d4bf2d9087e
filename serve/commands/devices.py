"""`fletcher-serve devices`: show the machine and its providers, and measure an artifact on them.

`fletcher-serve kernels`: build Fletcher's operators for NVIDIA GPUs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

from .options import local_folder

__all__ = ["devices", "kernels"]

kernels = typer.Typer(help="Build Fletcher's operators for NVIDIA GPUs.", no_args_is_help=True)


def devices(
    ctx: typer.Context,
    directory: Annotated[
        str | None,
        typer.Argument(metavar="[DIR|URL]", help="Folder or URL of an artifact to measure.", show_default=False),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Graph to measure. Default: the first one that runs here.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Seconds that all measurements may take.")
    ] = 20.0,
    min_cosine: Annotated[
        float | None,
        typer.Option(
            "--min-cosine",
            min=0.0,
            max=1.0,
            help="Smallest cosine with the reference that auto may accept. Default: the variant's own tolerance.",
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            help="Provider to measure; the measurements are then not stored. Repeatable. Default: all that run the graph.",
        ),
    ] = None,
) -> None:
    """Show the machine, its providers and tokenizers. With an artifact, measure each provider and show the choice of auto.

    The measurements are stored. Later loads of the artifact on this machine use them.
    """
    report = reporter(ctx)
    from .device_report import describe_machine, lines, measure_artifact, table

    if directory is None:
        described = describe_machine()
    else:
        described = measure_artifact(
            local_folder(ctx, directory), variant=variant, seconds=seconds, min_cosine=min_cosine, providers=provider
        )
    if report.as_json:
        report.result(described)
        return
    for line in lines(described):
        report.line(line)
    if described.choice is not None:
        report.result(described, table(described))
        report.line(f"auto takes {described.choice.reason}")


@kernels.command("build")
def build(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Library to write, for images and other machines; FLETCHER_KERNELS names it there. Default: a file in "
            "Fletcher's cache folder, where loads find it.",
        ),
    ] = None,
) -> None:
    """Compile the operators that graphs of `fletcher-convert model export --kernels` need, with NVIDIA's nvcc and g++.

    It takes about half a minute, needs no GPU, and is done once for a version of Fletcher.
    """
    from fletcher.runtime.kernels.build import build_kernels

    path, is_new = build_kernels(output)
    reporter(ctx).result({"path": path, "built": is_new})
