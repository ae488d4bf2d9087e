"""`fletcher-serve top`: watch a running server in a terminal."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

from .options import require_packages

__all__ = ["top"]

#: Longest wait for an answer, in seconds. The view takes no key while it waits.
TIMEOUT = 2.0


def top(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="[URL]", help="Address of the server.")] = "http://127.0.0.1:8080",
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one interval and end. --json implies it.")] = False,
    api_key: Annotated[
        str | None, typer.Option("--api-key", metavar="KEY", help="Key of the server. Default: none.")
    ] = None,
) -> None:
    """Watch a running server: requests, latency by stage, batches, queue, models and GPUs, from its metrics.

    The key q ends it. It waits for a server that is away.
    """
    require_packages("fletcher-serve top", "prometheus_client")
    from rich.console import Console

    from ..top.live import one_frame, terminal_keys, watch
    from ..top.scrape import read_page
    from ..top.view import render

    report, console = reporter(ctx), Console()
    read = partial(read_page, url, api_key, TIMEOUT)
    if report.as_json:
        report.result(one_frame(read, interval))
    elif once:
        console.print(render(one_frame(read, interval), url))
    else:
        with terminal_keys() as keys:
            watch(read, url, interval, console, keys)
