"""What both command line tools share: how commands are declared, configured, run, and how their failures are told.

A tool declares its commands with typer and hands the app to `run`:

    app = make_app("fletcher-convert", "Checkpoints to verified artefacts.")

    @app.command("export")
    def export(ctx: typer.Context, source: str, output: Annotated[Path, typer.Option("--output", "-o")]) -> None:
        report = reporter(ctx)
        with report.progress("writing", total=12, units=("tensors",)) as progress:
            progress.advance(1)
        report.result({"path": output})

    def main() -> None:
        run(app)

`run` gives every command, at any depth, without a line in the command itself:

- `--json`, `--debug` and `--config FILE`, also before the command's name, also as `FLETCHER_JSON=1`, `FLETCHER_DEBUG=1`
  and `FLETCHER_CONFIG`;
- an environment variable for each option: `FLETCHER_`, the command's words, the option (`FLETCHER_MODEL_EXPORT_OUTPUT`);
- values from one TOML file, a table per command, its keys the long options' names (`[model.export]`, `output = "x"`); the
  command line wins over the environment, and that over the file; an unknown key is an error;
- one clear message on stderr in place of a stack trace, and the exit codes of `EXIT`.

It knows neither models nor servers.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.main

from .errors import FletcherError
from .reporter import Reporter

__all__ = ["EXIT", "ExitCodes", "explain", "make_app", "reporter", "run"]


@dataclass(frozen=True, slots=True)
class ExitCodes:
    """What a command's exit code says; the last three are 128 plus the signal's number, as shells have it."""

    failure: int = 1
    usage: int = 2
    interrupted: int = 130
    broken_pipe: int = 141
    terminated: int = 143


EXIT: Final = ExitCodes()


@dataclass(slots=True)
class _Settings:
    """What the common options said; one per `run`, carried as the context's `obj`."""

    prog: str
    as_json: bool = False
    debug: bool = False
    config: Path | None = None


def make_app(name: str, help: str) -> typer.Typer:  # noqa: A002 (typer's own word)
    """A typer app with `--version`, shell completion and the house rules; add commands to it, then `run` it.

    Args:
        name: the tool's name, as users type it.
        help: a sentence for `--help`.
    """
    app = typer.Typer(
        name=name,
        help=help,
        epilog="Every option can also be an environment variable (FLETCHER_COMMAND_OPTION) or stand in a TOML file "
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
    """The reporter that tells this command's progress and result in the way the user asked for (`--json` or not)."""
    settings: _Settings = ctx.obj
    return Reporter(as_json=settings.as_json)


def run(app: typer.Typer, args: Sequence[str] | None = None) -> NoReturn:
    """Runs the tool and exits: 0, or a code of `EXIT` with one message on stderr.

    Args:
        app: from `make_app`.
        args: the command line without the tool's name; the process's own by default.
    """
    prog = app.info.name or "fletcher"
    command = typer.main.get_command(app)
    settings = _Settings(prog)
    common = typer.main.get_command(_common_options()).params
    command.params.extend(common)
    _equip(command, ("FLETCHER",), settings, common)
    with _exit_on_terminate():
        command(None if args is None else list(args), prog_name=prog, obj=settings)
    raise SystemExit(0)


def explain(error: OSError) -> str:
    """An operating system's error as a sentence that says what to do.

    Args:
        error: an error from opening, reading or writing a file or a socket.
    """
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space is left; free some or write elsewhere. Nothing half-written was kept"
    if error.errno == errno.ENOENT:
        return f"{where}no such file or folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}permission denied by the file system ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return f"{where}the address is already in use; stop the process that listens there or choose another port"
    return f"{where}{error.strerror or error}"


# The options that every command has -----------------------------------------------------------------------------------


def _print_version(value: bool) -> None:
    if value:
        from fletcher import __version__

        typer.echo(__version__)
        raise typer.Exit


def _set_json(ctx: typer.Context, value: bool) -> None:
    ctx.obj.as_json |= value


def _set_debug(ctx: typer.Context, value: bool) -> None:
    ctx.obj.debug |= value


def _set_config(ctx: typer.Context, value: Path | None) -> None:
    """Reads the command's table; being eager, it runs before the other options look for their values."""
    if ctx.resilient_parsing:  # shell completion
        return
    if value is not None:
        ctx.obj.config = value
    if ctx.parent is not None and ctx.obj.config is not None:
        ctx.default_map = _read_table(ctx.obj.config, ctx)


def _common_options() -> typer.Typer:
    """A throwaway app: typer's public way to build option objects, whose classes differ between its versions."""
    app = typer.Typer(add_completion=False)
    panel = "Common options"

    def common(as_json: bool = False, debug: bool = False, config: Path | None = None) -> None: ...

    common.__annotations__ = {
        "as_json": Annotated[
            bool,
            typer.Option(
                "--json",
                callback=_set_json,
                expose_value=False,
                envvar="FLETCHER_JSON",
                rich_help_panel=panel,
                help="Print the result as JSON on stdout, everything else on stderr.",
            ),
        ],
        "debug": Annotated[
            bool,
            typer.Option(
                "--debug",
                callback=_set_debug,
                is_eager=True,
                expose_value=False,
                envvar="FLETCHER_DEBUG",
                rich_help_panel=panel,
                help="Show stack traces.",
            ),
        ],
        "config": Annotated[
            Path | None,
            typer.Option(
                "--config",
                callback=_set_config,
                is_eager=True,
                expose_value=False,
                envvar="FLETCHER_CONFIG",
                metavar="FILE.toml",
                rich_help_panel=panel,
                help="Take options from this file, a table per command.",
            ),
        ],
    }
    app.command()(common)
    return app


def _equip(command: Any, words: tuple[str, ...], settings: _Settings, common: list[Any]) -> None:
    """Adds the common options, environment variables and the error guard to a command and those below it."""
    for param in command.params:
        long_name = _long_name(param)
        # Options that name a variable keep it; `--version` and completion end the run, so a variable would be a trap.
        if long_name and param.envvar is None and param.expose_value and not param.is_eager:
            param.envvar = "_".join((*words, long_name)).upper().replace("-", "_")
            param.show_envvar = False  # the epilog tells the rule; a name per option would fill half of the help
    for name, child in getattr(command, "commands", {}).items():
        if not hasattr(child, "commands"):
            child.params.extend(common)
            child.callback = _guarded(child.callback, settings)
        _equip(child, (*words, name), settings, common)


def _long_name(param: Any) -> str | None:
    """`token-budget` of `--token-budget`; None for an argument."""
    return next((option[2:] for option in param.opts if option.startswith("--")), None)


def _read_table(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """The command's table of the TOML file, keyed by parameter name."""
    words: list[str] = []
    above: Any = ctx
    while above.parent is not None:
        words.insert(0, str(above.info_name))
        above = above.parent
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(explain(error), param_hint="--config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not a TOML file: {error}", param_hint="--config") from error
    for depth, word in enumerate(words):
        table = table.get(word, {})
        if not isinstance(table, dict):
            wanted = ".".join(words[: depth + 1])
            raise typer.BadParameter(f"{path}: {wanted} must be a table: [{wanted}]", param_hint="--config")
    names = {_long_name(param) or param.name: param.name for param in ctx.command.params if param.expose_value}
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = key.replace("_", "-") if key.replace("_", "-") in names else key
        if option not in names:
            close = get_close_matches(key, [str(name) for name in names], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(map(str, names)))}"
            raise typer.BadParameter(
                f"{path}: [{'.'.join(words)}] has no option {key!r}; {hint}", param_hint="--config"
            )
        # Strings go through the same conversion as the command line's words.
        if isinstance(value, list):
            values[str(names[option])] = [str(item) for item in value]
        else:
            values[str(names[option])] = value if isinstance(value, bool) else str(value)
    return values


# Failures -------------------------------------------------------------------------------------------------------------


def _guarded(callback: Callable[..., Any], settings: _Settings) -> Callable[..., Any]:
    """The command's function with its failures told in one message."""

    @functools.wraps(callback)
    def guarded(**options: Any) -> None:
        if not settings.debug:
            sys.excepthook = functools.partial(_tell_unexpected, settings)
        try:
            callback(**options)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of our output went away. Python would fail once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT.broken_pipe) from None
        except FletcherError as error:
            _fail(settings, str(error))
        except OSError as error:
            _fail(settings, explain(error))
        except MemoryError as error:
            _fail(
                settings, f"out of memory ({error}); close other programs or ask for smaller batches (--token-budget)"
            )

    return guarded


def _fail(settings: _Settings, message: str) -> NoReturn:
    if settings.debug:
        traceback.print_exc()
    typer.echo(f"{settings.prog}: error: {message}", err=True)
    raise typer.Exit(EXIT.failure)


def _tell_unexpected(
    settings: _Settings, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Stands in for Python's stack trace: whatever comes here is a defect of Fletcher, not the user's."""
    typer.echo(
        f"{settings.prog}: error: unexpected {kind.__name__}: {error}\n"
        "This is a defect of Fletcher. Run it again with --debug for the stack trace, and report that.",
        err=True,
    )


@contextmanager
def _exit_on_terminate() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that temporary files are cleaned away; a server sets its own handler."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT.terminated)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
