"""Rules of the source tree: few parameters, small folders, docstrings that begin with the documented noun or verb."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("convert", "runtime", "serve", "quantize", "model_zoo")

#: Largest number of parameters of a function, `self` and `cls` aside.
MAX_PARAMETERS = 8

#: Largest number of modules in a folder, `__init__.py` aside.
MAX_MODULES = 14

#: First words of docstrings that do not name the documented subject.
EMPTY_WORDS = ("What", "How", "Where", "Which", "Who", "Whether", "Raises:", "Args:", "Returns:")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@dataclass(frozen=True, slots=True)
class Place:
    """`Place`: a definition in a file.

    Attributes:
        file: path relative to the repository's root.
        name: dotted name in the file; empty for the module.
        node: the definition.
    """

    file: str
    name: str
    node: Documented

    def __str__(self) -> str:
        line = getattr(self.node, "lineno", 1)
        return f"{self.file}:{line} {self.name or 'module'}"


def modules(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts]


def definitions(path: Path) -> Iterator[Place]:
    """Yield a module and all its classes, functions and methods at any depth."""
    file = str(path.relative_to(ROOT))
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def below(node: ast.AST, prefix: str) -> Iterator[Place]:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}.{child.name}".lstrip(".")
                yield Place(file, name, child)
            yield from below(child, name)

    yield Place(file, "", tree)
    yield from below(tree, "")


def all_definitions() -> Iterator[Place]:
    for folder in FOLDERS:
        for path in modules(folder):
            yield from definitions(path)


# Parameters -----------------------------------------------------------------------------------------------------------


def parameters(function: Function) -> int:
    """Count the parameters of a function, `self` and `cls` aside."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    extra = (arguments.vararg is not None) + (arguments.kwarg is not None)
    return len(names) - (names[:1] in (["self"], ["cls"])) + extra


def registered_commands() -> set[tuple[str, str]]:
    """Return file and name of each function that a `commands/cli.py` registers, as in `app.command("embed")(embed)`."""
    commands = set()
    for folder in FOLDERS:
        cli = ROOT / folder / "commands" / "cli.py"
        if not cli.is_file():
            continue
        tree = ast.parse(cli.read_text(encoding="utf-8"))
        files = {
            alias.asname or alias.name: f"{folder}/commands/{node.module}.py"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_command(node.func):
                commands |= {
                    (files[argument.id], argument.id) for argument in node.args if isinstance(argument, ast.Name)
                }
    return commands


def is_command(function: Function) -> bool:
    """Report whether a decorator makes the function a command, so its parameters are options of a command line."""
    return any(
        (isinstance(decorator, ast.Name) and decorator.id == "struct_options") or _is_command(decorator)
        for decorator in function.decorator_list
    )


def _is_command(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "command"


def test_no_function_has_many_parameters() -> None:
    commands = registered_commands()
    long = [
        f"{place}: {parameters(place.node)} parameters"
        for place in all_definitions()
        if isinstance(place.node, ast.FunctionDef | ast.AsyncFunctionDef)
        and parameters(place.node) > MAX_PARAMETERS
        and not is_command(place.node)
        and (place.file, place.name) not in commands
    ]
    assert not long, "group the parameters in a struct:\n" + "\n".join(long)


def test_commands_are_recognized() -> None:
    assert ("serve/commands/devices.py", "devices") in registered_commands()
    (export,) = [place for place in definitions(ROOT / "convert/commands/cli.py") if place.name == "export_model"]
    assert isinstance(export.node, ast.FunctionDef)
    assert is_command(export.node)
    assert parameters(export.node) == 9


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(): ...", 0),
        ("def f(self, a, /, b, *, c): ...", 3),
        ("def f(cls, *args, **kwargs): ...", 2),
        ("async def f(a, b=1, *, c=2): ...", 3),
    ],
)
def test_parameters_are_counted(source: str, count: int) -> None:
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    assert parameters(function) == count


# Folders --------------------------------------------------------------------------------------------------------------


def test_no_folder_has_many_modules() -> None:
    sizes: dict[Path, int] = {}
    for folder in (*FOLDERS, "tests"):
        for path in modules(folder):
            if path.name != "__init__.py":
                sizes[path.parent] = sizes.get(path.parent, 0) + 1
    large = [f"{folder.relative_to(ROOT)}: {size} modules" for folder, size in sizes.items() if size > MAX_MODULES]
    assert not large, "split the folders:\n" + "\n".join(large)


# Docstrings -----------------------------------------------------------------------------------------------------------


def is_public(place: Place) -> bool:
    """Report whether no part of the name is private; names such as `__init__` are public."""
    names = [name for name in (*Path(place.file).with_suffix("").parts, *place.name.split(".")) if name]
    return all(not name.startswith("_") or (name.startswith("__") and name.endswith("__")) for name in names)


def first_word(docstring: str) -> str:
    return docstring.split(maxsplit=1)[0] if docstring.strip() else ""


def test_docstrings_begin_with_the_documented_noun_or_verb() -> None:
    offenders: dict[str, list[str]] = {}
    for place in all_definitions():
        docstring = ast.get_docstring(place.node)
        if docstring is None or not is_public(place):
            continue
        if first_word(docstring).rstrip(",") in EMPTY_WORDS:
            line = getattr(place.node, "lineno", 1)
            offenders.setdefault(place.file, []).append(f"{line} {place.name or 'module'}: {docstring.splitlines()[0]}")
    listed = "\n".join(f"{file}\n  " + "\n  ".join(lines) for file, lines in offenders.items())
    assert not offenders, (
        f"begin with the documented noun or verb ({sum(map(len, offenders.values()))} docstrings in "
        f"{len(offenders)} files):\n{listed}"
    )
