"""Command line options made from option structs, so that a command line cannot differ from its struct.

    @app.command("embed")
    @struct_options
    def embed(ctx: typer.Context, directory: Directory, options: EmbedOptions, load: LoadOptions) -> None: ...

Every parameter whose type is a subclass of `Options` becomes one command line option for each field: `window_tokens: int`
becomes `--window-tokens`, with the description of the field as help, its bounds and its default. The function receives the
struct.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer

from ..errors import OptionError
from ..options.struct import Field, Options, fields_of

__all__ = ["Without", "struct_options"]


@dataclass(frozen=True, slots=True)
class Without:
    """`Without`: fields of a struct that are not options of a command: `Annotated[LoadOptions, Without(("cache",))]`."""

    fields: tuple[str, ...]


def struct_options(function: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameters of a command that are option structs by one option for each field.

    A default of such a parameter, `load: LoadOptions = LoadOptions(cache="64MiB")`, gives the defaults of the options. The
    `Meta.extra` of a field may hold `metavar`, `flags` (all names of the option), `panel`, `hidden` (the field is not an
    option) and `secret` (values with this text come from a file, the environment or TOML, not from the command line). The
    `PANEL` of a struct names the panel of fields without `panel`. A `bool | None` becomes a pair such as
    `--normalize/--no-normalize`.

    A value that the struct rejects is a usage error, like a value that typer rejects: the command raises
    `typer.BadParameter`.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    structs: dict[str, tuple[type[Options], Options | None]] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        left_out = _left_out(kind)
        kind = kind.__origin__ if left_out else kind
        if isinstance(kind, type) and issubclass(kind, Options):
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            structs[parameter.name] = kind, default
            parameters += _parameters(kind, default, left_out)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        # typer's own context is not an instance of the class `typer.Context`.
        context = next((value for value in values.values() if hasattr(value, "get_parameter_source")), None)
        for name, (struct, default) in structs.items():
            options = {field.name: values.pop(field.name) for field in fields_of(struct) if field.name in values}
            _check_secrets(struct, options, context)
            try:
                values[name] = struct(**options) if default is None else default.replace(**options)
            except OptionError as error:
                raise typer.BadParameter(str(error), context, param_hint=_names(struct, error.field)) from error
        function(**values)

    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)  # required first
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__  # typer reads the signature above
    return command


def _check_secrets(struct: type[Options], options: Mapping[str, Any], context: Any) -> None:
    """Refuse secrets of the command line, which the list of processes shows to every user of the machine.

    Raises:
        typer.BadParameter: there is one.
    """
    for field in fields_of(struct):
        mark = (field.meta.extra or {}).get("secret")
        value = options.get(field.name)
        if mark is None or value is None or mark not in value or context is None:
            continue
        source = context.get_parameter_source(field.name)
        if source is not None and source.name == "COMMANDLINE":
            flag = _flags(field)[0]
            raise typer.BadParameter(
                f"the list of processes shows it to every user: use {flag}-file FILE or the environment",
                context,
                param_hint=[flag],
            )


def _left_out(hint: Any) -> tuple[str, ...]:
    """Return the fields that the `Without` of an annotation names."""
    return next((one.fields for one in getattr(hint, "__metadata__", ()) if isinstance(one, Without)), ())


def _parameters(
    struct: type[Options], default: Options | None, left_out: tuple[str, ...]
) -> Iterator[inspect.Parameter]:
    for field in fields_of(struct):
        if (field.meta.extra or {}).get("hidden") or field.name in left_out:
            continue
        value = field.default if default is None else getattr(default, field.name)
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if value is msgspec.NODEFAULT else _default(field, value),
            annotation=Annotated[_type(field), _option(struct, field)],
        )


def _option(struct: type[Options], field: Field) -> Any:
    extra = field.meta.extra or {}
    metavar = extra.get("metavar") or ("|".join(map(str, field.choices)) or None)
    number = int in _kinds(field) or float in _kinds(field)
    return typer.Option(
        *_flags(field),
        help=(field.meta.description or "").replace("`", ""),
        metavar=metavar,
        min=field.meta.ge if number and str not in _kinds(field) else None,
        max=field.meta.le if number and str not in _kinds(field) else None,
        rich_help_panel=extra.get("panel", getattr(struct, "PANEL", None)),
    )


def _flags(field: Field) -> tuple[str, ...]:
    """Return the names of the option. A boolean option has a second name that turns it off, unless its default is False."""
    if flags := (field.meta.extra or {}).get("flags"):
        return tuple(flags)
    name = field.name.replace("_", "-")
    return (f"--{name}/--no-{name}" if bool in _kinds(field) and field.default is not False else f"--{name}",)


def _names(struct: type[Options], name: str) -> list[str]:
    """Return the names of a field's option for an error message, without those that turn it off."""
    field = next((field for field in fields_of(struct) if field.name == name), None)
    return [name] if field is None else [flag.partition("/")[0] for flag in _flags(field)]


def _kinds(field: Field) -> tuple[Any, ...]:
    if get_origin(field.type) is tuple:
        return (list,)
    return get_args(field.type) if not field.choices and get_args(field.type) else (field.type,)


def _type(field: Field) -> Any:
    """Return the type that typer converts to: text for choices and sizes, because the struct checks these."""
    kinds = _kinds(field)
    if kinds == (list,):  # the option can be given several times
        return list[str]
    kind: Any = str if field.choices or str in kinds else next(kind for kind in kinds if kind is not type(None))
    return kind | None if type(None) in kinds else kind


def _default(field: Field, value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if value is not None and str in _kinds(field) else value
