"""The error tree: one module has all classes, and its docstring shows all of them."""

from __future__ import annotations

import importlib
import pkgutil

import fletcher
from fletcher.model_zoo import errors as zoo_errors
from fletcher.runtime import errors
from fletcher.runtime.errors import FletcherError


def drawn() -> dict[str, str]:
    """Return the parent of each class in the docstring's tree; it is empty for the root."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name, _, text = line.lstrip("│├└─ ").partition(" ")
        if not name.endswith("Error"):
            continue
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        assert depth == 0 or text.strip(), f"{name} has no description in the tree"
        above[depth:] = [name]
        parents[name] = above[depth - 1] if depth else ""
    return parents


def subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_the_drawing_is_the_tree() -> None:
    for _, name, _ in pkgutil.walk_packages(fletcher.__path__, "fletcher."):
        if not name.startswith(
            ("fletcher.serve", "fletcher.convert", "fletcher.integrations")
        ):  # these need their extras
            importlib.import_module(name)
    tree = drawn()
    # serve/errors.py describes the subclasses of InputError for HTTP and Flight.
    below = ("fletcher.model_zoo.", "fletcher.runtime.", "fletcher.quantize.", "fletcher.convert.")
    ours = {kind for kind in subclasses(FletcherError) if kind.__module__.startswith(below)}
    assert {kind.__name__ for kind in ours} == set(tree) == set(errors.__all__)
    for kind in ours:
        assert getattr(errors, kind.__name__) is kind
        parent = kind.__bases__[0].__name__
        assert tree[kind.__name__] == ("" if kind is FletcherError else parent)
    assert zoo_errors.FletcherError is FletcherError


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    error = errors.MissingPackageError("onnxruntime", "cpu", "running an artifact")
    assert "pip install 'longbow-fletcher[cpu]'" in str(error)
    assert (error.package, error.extra) == ("onnxruntime", "cpu")
