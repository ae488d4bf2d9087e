"""Sphinx extension that writes pages of the reference from the code, so that they cannot differ from it.

Before the sources are read, it writes `docs/reference/generated/`:

- `commands.md`: every command and option of both command line tools, from their own declarations;
- `options.md`: the fields of `LoadOptions`, `EmbedOptions` and `ModelSpec`, from the descriptions in the structs;
- `errors.md`: the tree of errors, from its docstring;
- `routes.md`: every HTTP route with the fields of its body, from the server's OpenAPI document.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer.main
from sphinx.application import Sphinx

GENERATED = Path(__file__).parents[1] / "reference" / "generated"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


def write_pages(_app: Sphinx) -> None:
    """Write the generated pages; a file with unchanged text keeps its time, so Sphinx does not read it again."""
    pages = {
        "commands.md": commands_page(),
        "options.md": options_page(),
        "routes.md": routes_page(),
        "errors.md": errors_page(),
    }
    GENERATED.mkdir(exist_ok=True)
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        path = GENERATED / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# Command line ----------------------------------------------------------------------------------------------------------


def commands_page() -> Iterator[str]:
    """Yield the page of both tools' commands."""
    from fletcher.convert.commands.cli import app as convert
    from fletcher.serve.commands.cli import app as serve

    yield "# Commands and options"
    yield ""
    yield "Every command with its arguments and options. [The command line](../cli.md) explains what the commands have in"
    yield "common: environment variables, the TOML file, JSON output and exit codes."
    for name, app in (("fletcher-convert", convert), ("fletcher-serve", serve)):
        command = typer.main.get_command(app)
        yield from ("", f"## {name}", "", command.help or "")
        yield from _commands(name, command)


def _commands(words: str, group: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{words} {name}", command)
            continue
        yield from ("", f"### {words} {name}", "", inspect.cleandoc(command.help or ""))
        panels: dict[str, list[Any]] = {}
        for param in command.params:
            if not param.hidden:
                panels.setdefault(param.rich_help_panel or "", []).append(param)
        for panel, params in panels.items():
            yield ""
            if panel:
                yield from (f"**{panel}**", "")
            yield from _table(("option", "description"), ((_names(param), _described(param)) for param in params))


def _names(param: Any) -> str:
    """Return an option as users type it, or an argument's placeholder."""
    if not param.opts[0].startswith("-"):
        return f"`{param.metavar or param.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))


def _described(param: Any) -> str:
    text = param.help or ""
    if param.required:
        return f"{text} Required."
    default = param.default
    shown = default is not None and default is not False and default != [] and not callable(default)
    if shown and "Default:" not in text:
        text += f" Default: `{getattr(default, 'value', default)}`."
    return text


# Options ---------------------------------------------------------------------------------------------------------------


def options_page() -> Iterator[str]:
    """Yield the page of the option structs."""
    from fletcher.runtime.options.embed import EmbedOptions
    from fletcher.runtime.options.load import LoadOptions
    from fletcher.serve.models.spec import ModelSpec

    yield "# Options"
    yield ""
    yield "Options are defined once. The Python API, the command line (`--min-cosine` for `min_cosine`), the TOML file, the"
    yield "HTTP APIs and Flight all take them under these names, with these defaults and bounds."
    load_fields = set(LoadOptions.__struct_fields__)
    for title, text, struct, left_out in (
        ("LoadOptions", "Options for loading and running a model.", LoadOptions, set()),
        ("EmbedOptions", "Options for the way from texts to vectors.", EmbedOptions, set()),
        (
            "ModelSpec",
            "Fields of one `[[models]]` table of a server's TOML file and of the admin API, in addition to `LoadOptions`.",
            ModelSpec,
            load_fields,
        ),
    ):
        yield from ("", f"## {title}", "", text, "")
        schema = _schema_of(struct)
        rows = (
            (f"`{name}`", _type(field), _default(field), field.get("description", ""))
            for name, field in schema["properties"].items()
            if name not in left_out
        )
        yield from _table(("field", "type", "default", "description"), rows)


def _schema_of(struct: type[Any]) -> dict[str, Any]:
    (reference,), components = msgspec.json.schema_components([struct], ref_template="{name}")
    schema: dict[str, Any] = components[reference["$ref"]]
    return schema


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "required"
    return f"`{json.dumps(field['default'])}`"


def _type(field: dict[str, Any]) -> str:
    """Return a JSON Schema type as a few words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part) for part in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return f"`{field['$ref'].rpartition('/')[2]}`"
    kind = str(field.get("type", "any"))
    if kind == "array" and isinstance(field.get("items"), dict):
        return f"list of {_type(field['items'])}"
    return kind + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    if high is None:
        return f", at least {low:,}" if "minimum" in field else f", above {low:,}"
    if low is None:
        return f", at most {high:,}" if "maximum" in field else f", below {high:,}"
    return f", {low:,} to {high:,}"


# Errors ----------------------------------------------------------------------------------------------------------------


def errors_page() -> Iterator[str]:
    """Yield the page of the error tree."""
    from fletcher.runtime import errors

    yield from ("# Errors", "", "`fletcher.runtime.errors`:", "", "```text", inspect.getdoc(errors) or "", "```")


# HTTP ------------------------------------------------------------------------------------------------------------------


def routes_page() -> Iterator[str]:
    """Yield the page of the HTTP routes."""
    document = _openapi()
    schemas = document["components"]["schemas"]
    yield "# HTTP routes"
    yield ""
    yield "Every route with the fields of its body. A running server has the same as an OpenAPI 3.1 document under"
    yield "`/openapi.json`, and as a page with a form under `/docs`. [HTTP](../http.md) explains what the routes have in"
    yield "common, with examples."
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from ("", f"## {method.upper()} {path}", "", operation.get("summary", ""), "")
            if operation.get("description"):
                yield from (operation["description"], "")
            yield f"Statuses: {', '.join(operation['responses'])}."
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            properties = {} if body is None else _resolve(body, schemas).get("properties", {})
            if properties:
                yield ""
                rows = (
                    (f"`{name}`", _type(field), _default(field), field.get("description", ""))
                    for name, field in properties.items()
                )
                yield from _table(("field", "type", "default", "description"), rows)


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        resolved: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
        return resolved
    return schema


def _openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a server with every route."""
    from fletcher.serve.http.call import Limits
    from fletcher.serve.http.openapi import openapi_document
    from fletcher.serve.http.routes import http_routes

    return openapi_document(http_routes(), Limits(), keys=True)


# Markdown --------------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")
