"""Commands of `fletcher-serve kernels`: build Fletcher's operators for NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["kernels"]

kernels = typer.Typer(help="Build Fletcher's operators for NVIDIA GPUs.", no_args_is_help=True)


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

    report = reporter(ctx)
    if not report.as_json:
        report.line("compiling, which takes about half a minute")
    path, is_new = build_kernels(output)
    report.result({"path": path, "built": is_new})
