"""Declaration, configuration and execution of the commands of both command-line tools, and messages of their failures.

A tool declares its commands with typer and hands the app to `run`:

    app = make_app("fletcher-convert", "Checkpoints to verified artifacts.")

    @app.command("export")
    def export(ctx: typer.Context, source: str, output: Annotated[Path, typer.Option("--output", "-o")]) -> None:
        report = reporter(ctx)
        with report.count("writing", total=12, units=("tensors",)) as counter:
            counter.advance(1)
        report.result({"path": output})

    def main() -> None:
        run(app)

`run` gives the following to every command, at any depth, without code in the command:

- The options `--json`, `--debug` and `--config FILE`, before or after the command's name, or as the variables
  `FLETCHER_JSON=1`, `FLETCHER_DEBUG=1` and `FLETCHER_CONFIG`.
- An environment variable per option. Its name is `FLETCHER_`, the words of the command, and the option
  (`FLETCHER_MODEL_EXPORT_OUTPUT`).
- Values from a TOML file with a table per command. The keys are the long names of the options (`[model.export]`,
  `output = "x"`). The command line overrides the environment, which overrides the file. An unknown key is an error.
- One message on stderr instead of a stack trace, and the exit codes of `EXIT`.

This module knows neither models nor servers.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, MappingProxyType, TracebackType
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.main
from rich.markup import escape

from ..errors import FletcherError
from ..os_errors import explain
from .options import Settings, common_options, long_name
from .reporter import Reporter
from .warning_lines import warning_lines

__all__ = ["EXIT", "ExitCodes", "explain", "make_app", "reporter", "run"]


@dataclass(frozen=True, slots=True)
class ExitCodes:
    """`ExitCodes`: exit codes of a command. The last three are 128 plus the number of a signal, as in shells."""

    failure: int = 1
    usage: int = 2
    interrupted: int = 130
    broken_pipe: int = 141
    terminated: int = 143


EXIT: Final = ExitCodes()


def make_app(name: str, help: str) -> typer.Typer:  # noqa: A002 (the name that typer uses)
    """Return a typer app with `--version` and shell completion; add commands to it, then `run` it.

    Args:
        name: name of the tool, as users type it.
        help: a sentence for `--help`.
    """
    app = typer.Typer(
        name=name,
        help=help,
        epilog="Every option can also be set by an environment variable (FLETCHER_COMMAND_OPTION) or in a TOML file "
        "(--config, a table per command).",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=help)
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None: ...

    return app


def reporter(ctx: typer.Context) -> Reporter:
    """Return the reporter of a command, which prints its progress and its result; with `--json`, the result as JSON."""
    settings: Settings = ctx.obj
    return Reporter(as_json=settings.as_json)


def run(
    app: typer.Typer, args: Sequence[str] | None = None, *, shared: Mapping[str, str] = MappingProxyType({})
) -> NoReturn:
    """Run the tool and exit with 0, or with a code of `EXIT` and one message on stderr.

    Args:
        app: app of `make_app`.
        args: command line without the name of the tool; None is the command line of the process.
        shared: commands that take the values of another command's options from the environment and the TOML file, by name.
    """
    prog = app.info.name or "fletcher"
    command = typer.main.get_command(app)
    settings = Settings(prog, shared=shared)
    common = common_options()
    command.params.extend(common)
    _equip(command, ("FLETCHER",), settings, common)
    with _exit_on_terminate(), warning_lines():
        command(None if args is None else list(args), prog_name=prog, obj=settings)
    raise SystemExit(0)


def _print_version(value: bool) -> None:
    if value:
        from fletcher import __version__

        typer.echo(__version__)
        raise typer.Exit


def _equip(command: Any, words: tuple[str, ...], settings: Settings, common: list[Any]) -> None:
    """Add the common options, environment variables and error messages to a command and its subcommands."""
    command.help = _plain(command.help)
    for param in command.params:
        if param not in common:  # all commands share the common options, whose help texts are escaped already
            param.help = _plain(param.help)
        name = long_name(param)
        # Options that declare a variable keep it. `--version` and completion exit at once and have no variable.
        if name and param.envvar is None and param.expose_value and not param.is_eager:
            param.envvar = "_".join((*words, name)).upper().replace("-", "_")
            param.show_envvar = False  # the epilog gives the rule; the names would fill half of the help text
    for word, child in getattr(command, "commands", {}).items():
        if not hasattr(child, "commands"):
            child.params.extend(common)
            child.callback = _guarded(child.callback, settings)
        _equip(child, (*words, settings.shared.get(word, word)), settings, common)


def _plain(text: str | None) -> str | None:
    """Escape a help text, so that rich does not read its brackets, as in `[[models]]`, as markup."""
    return None if text is None else escape(text)


# Failures -------------------------------------------------------------------------------------------------------------


def _guarded(callback: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """Return a function that runs a command and reports its failure in one message."""

    @functools.wraps(callback)
    def guarded(**options: Any) -> None:
        if not settings.debug:
            sys.excepthook = functools.partial(_report_unexpected, settings)
        try:
            callback(**options)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the output closed the pipe. Python would fail again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT.broken_pipe) from None
        except FletcherError as error:
            _fail(settings, str(error))
        except OSError as error:
            _fail(settings, explain(error))
        except MemoryError as error:
            _fail(settings, f"out of memory ({error}); close other programs or use smaller batches (--token-budget)")

    return guarded


def _fail(settings: Settings, message: str) -> NoReturn:
    if settings.debug:
        traceback.print_exc()
    typer.echo(f"{settings.prog}: error: {message}", err=True)
    raise typer.Exit(EXIT.failure)


def _report_unexpected(
    settings: Settings, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Report an exception that no command expects, instead of Python's stack trace. It is a defect of Fletcher."""
    typer.echo(
        f"{settings.prog}: error: unexpected {kind.__name__}: {error}\n"
        "This is a defect of Fletcher. Run the command again with --debug, and report the stack trace.",
        err=True,
    )


@contextmanager
def _exit_on_terminate() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that temporary files are removed. A server sets its own handler."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT.terminated)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
