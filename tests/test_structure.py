"""Rules of the source tree: few parameters, small folders, plain docstrings, comments and documents."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from .slow_variants import SLOW_VARIANTS

ROOT = Path(__file__).parents[1]
FOLDERS = ("convert", "runtime", "serve", "quantize", "model_zoo", "integrations")

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
    assert parameters(export.node) > 8


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


# Words ----------------------------------------------------------------------------------------------------------------

#: Folders and files whose docstrings, comments and documents `test_no_riddles` checks.
WORDED = (*FOLDERS, "docs", "benchmarks", "demo", "examples", "tests", "README.md", "CONTRIBUTING.md")

#: Folders of generated files.
GENERATED = frozenset({"__pycache__", "_build", "generated"})

#: Phrases that hide who does what, contradict without "not", or tell history.
RIDDLES = re.compile(
    r"""\b(?:told|tells|whoever|nobody|somebody|the\ like|its\ kin|as\ it\ stands|earlier\ Fletcher)\b
    |,\ where\ that\b
    |\bFletcher\ 0\.
    |(?<!\bthere\ )\b(?:is|are)\ no\b(?!\ longer\b)""",
    re.IGNORECASE | re.VERBOSE,
)

#: Allowed phrases by file and phrase, with the reason. Only texts that cannot change belong here.
ALLOWED_RIDDLES: Mapping[tuple[str, str], str] = {}


def joined(text: str) -> str:
    """Join lines, without the marks of comments, so that a phrase is found if it is wrapped."""
    return re.sub(r"[\s#]+", " ", text)


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph of a text with the number of its first line."""
    for match in re.finditer(r"\S.*(?:\n.*\S.*)*", text):
        yield 1 + text.count("\n", 0, match.start()), match[0]


def python_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each docstring and comment of a Python file with the number of its first line. Adjacent comments are one text."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    with tokenize.open(path) as file:
        comments = [token for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT]
    for _, group in groupby(enumerate(comments), lambda item: (item[1].start[0] - item[0], item[1].start[1])):
        block = [comment for _, comment in group]
        yield block[0].start[0], "\n".join(comment.string for comment in block)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file that people read, each with the number of its first line; names and data are not included."""
    if path.suffix == ".py":
        yield from python_texts(path)
    elif path.suffix == ".toml":
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from paragraphs("\n".join(line if line.startswith("#") else "" for line in lines))
    else:
        yield from paragraphs(path.read_text(encoding="utf-8"))


def riddles(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each forbidden phrase of a file with the number of the first line of its text."""
    if RIDDLES.search(joined(path.read_text(encoding="utf-8"))):  # parsing every file would take several seconds
        for line, text in texts(path):
            for match in RIDDLES.finditer(joined(text)):
                yield line, match[0].lower()


def worded_files() -> Iterator[Path]:
    for name in WORDED:
        for path in sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]:
            file = path.relative_to(ROOT)
            if path.suffix in {".py", ".md", ".toml"} and not GENERATED & set(file.parts):
                yield path


def test_no_riddles() -> None:
    places: dict[tuple[str, str], int] = {}
    for path in worded_files():
        places |= {(str(path.relative_to(ROOT)), phrase): line for line, phrase in riddles(path)}
    offenders = [f"{key[0]}:{line}: {key[1]}" for key, line in places.items() if key not in ALLOWED_RIDDLES]
    assert not offenders, "use plain words:\n" + "\n".join(offenders)
    assert ALLOWED_RIDDLES.keys() <= places.keys(), "remove the exceptions that no file needs"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.py",
            'def told() -> str:\n    """There is\n    no entry."""\n    return "nobody"  # is no longer used\n',
            [],
        ),
        ("a.py", 'def f() -> None:\n    """Report it.\n\n    It is\n    no number.\n    """\n', [(2, "is no")]),
        ("a.py", "x = 1  # Somebody's\n# a file that is\n# no graph\n", [(1, "somebody"), (2, "is no")]),
        ("a.md", "# Files\n\nThe file,\nwhere that exists. Fletcher 0.9\n", [(3, ", where that"), (3, "fletcher 0.")]),
        ("a.toml", '# The user is told.\nname = "told"\n', [(1, "told")]),
    ],
)
def test_riddles_are_found(name: str, content: str, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(riddles(tmp_path / name)) == expected


def test_every_slow_variant_is_a_test() -> None:
    for variant in SLOW_VARIANTS:
        file, _, name = variant.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), variant
