"""Checks that the packages of the extra `quality` are installed, before minutes of measuring."""

from __future__ import annotations

from importlib.util import find_spec

from fletcher.runtime.errors import MissingPackageError

__all__ = ["require_map_packages", "require_pytrec_eval", "require_scikit_learn"]

EXTRA = "quality"


def require_scikit_learn(purpose: str) -> None:
    """Raise an error if scikit-learn is not installed.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    _require("sklearn", "scikit-learn", purpose)


def require_pytrec_eval() -> None:
    """Raise an error if pytrec_eval is not installed.

    Raises:
        MissingPackageError: pytrec_eval is not installed.
    """
    _require("pytrec_eval", "pytrec-eval-terrier", "retrieval metrics")


def require_map_packages() -> None:
    """Raise an error if scikit-learn or UMAP is not installed.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    require_scikit_learn("a map of the texts")
    _require("umap", "umap-learn", "a map of the texts")


def _require(module: str, package: str, purpose: str) -> None:
    if find_spec(module) is None:
        raise MissingPackageError(package, EXTRA, purpose)
