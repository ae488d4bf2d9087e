"""`require_training`: checks that the packages of the extra `train` are installed."""

from __future__ import annotations

from importlib.util import find_spec

from fletcher.runtime.errors import MissingPackageError

__all__ = ["require_training"]

#: Modules by the package that brings them.
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "sentence-transformers": "sentence_transformers",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "peft": "peft",
    "pytrec-eval-terrier": "pytrec_eval",
    "scikit-learn": "sklearn",
}


def require_training() -> None:
    """Raise an error if a package that training needs is not installed.

    Raises:
        MissingPackageError: one is not installed.
    """
    for package, module in PACKAGES.items():
        if find_spec(module) is None:
            raise MissingPackageError(package, "train", "training")
