"""`fletcher-serve run`: start the server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.options.load import LoadOptions

from ..models.heap import few_arenas
from ..models.spec import SERVER_CACHE, ModelSpec
from ..server_options import ServerOptions
from ..signals import end_process, ignore_stop_signals
from .options import Aliases, Directories, IdleSeconds, require_packages, serve_packages, specs_of

if TYPE_CHECKING:
    from ..access.addresses import Addresses
    from ..models.served import ServedModel

__all__ = ["serve"]


@struct_options
def serve(
    ctx: typer.Context,
    directories: Directories = None,
    options: ServerOptions = ServerOptions(),
    idle_seconds: IdleSeconds = None,
    alias: Aliases = None,
    load: LoadOptions = LoadOptions(cache=SERVER_CACHE),
) -> None:
    """Serve artifacts over HTTP (APIs of OpenAI, TEI, Cohere and others) and Arrow Flight until SIGTERM or Ctrl+C.

    Requests that were admitted before the signal are answered. With --json, the addresses are one line of JSON on stdout.
    After SIGHUP, the server reads the API keys and the [[models]] of the TOML file again.
    """
    report = reporter(ctx)
    few_arenas()
    with serve_packages("fletcher-serve run"):
        from ..listening import address_lines, announce
        from ..observe.logs import LEVELS
    from fletcher.runtime.errors import InputError, OptionError

    def all_specs() -> list[ModelSpec]:
        return specs_of(ctx.obj.config, directories, options, load, aliases=alias, idle_seconds=idle_seconds)

    def tell(addresses: Addresses, models: Sequence[ServedModel]) -> None:
        if report.as_json:
            announce([msgspec.json.encode(addresses).decode()])
            return
        served = ((f"serving {each.name} ({each.variant} on {each.provider})", each.reason) for each in models)
        announce([line for pair in served for line in pair] + address_lines(addresses))

    if options.log_level not in LEVELS:
        raise OptionError("log_level", f"--log-level is {options.log_level!r}: use {', '.join(LEVELS)}")
    if options.otlp is not None:
        with serve_packages("--otlp"):
            from ..observe import tracing as _tracing  # noqa: F401 - its absence must be reported before a model is loaded
    specs = all_specs()
    if not specs:
        raise InputError("there is no model to serve: name a folder, or put [[models]] into the file of --config")
    if options.front_count:
        require_packages(
            "fletcher-serve run", "httptools", "orjson", "prometheus_client", "uvicorn", "uvloop", "zstandard"
        )
        from ..fronts.supervisor import run_supervisor

        drained = run_supervisor(
            specs,
            options,
            reread=all_specs,
            on_listening=lambda supervisor: tell(supervisor.addresses, supervisor.models),
        )
    else:
        with serve_packages("fletcher-serve run"):
            from ..models.served import served_models
            from ..server import run_server

        drained = run_server(
            specs,
            options,
            reread=all_specs,
            on_listening=lambda server: tell(server.addresses, served_models(server.models)),
        )
    ignore_stop_signals()
    if not drained or threading.active_count() > 1:  # a load that hangs would abort the end of the interpreter
        end_process(0)
