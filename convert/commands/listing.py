"""Table of the zoo: its models in groups, with size, dimension, languages, license and what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fletcher.model_zoo import CatalogModel, Output, canary_path
from fletcher.runtime.commandline.reporter import Reporter, Table

__all__ = ["show_zoo"]

#: Titles of the groups, in the order of the table.
GROUPS: Final[Mapping[Output, str]] = MappingProxyType(
    {
        "vectors": "embedding",
        "scores": "reranker",
        "sparse": "sparse (SPLADE)",
        "token_vectors": "late interaction (ColBERT)",
    }
)

#: Bytes of a weight in float32, as the processor computes.
FLOAT32: Final = 4

#: Licenses whose terms must be accepted on the hub before it gives the files.
TERMS: Final = ("LicenseRef-Gemma",)


def show_zoo(reporter: Reporter, models: Sequence[CatalogModel]) -> None:
    """Print the models of the zoo.

    Args:
        reporter: printer.
        models: the models.
    """
    rows = [
        (
            GROUPS[model.output],
            model.name,
            _count(model.parameters),
            f"{_count(model.parameters * FLOAT32)}B",
            model.dimension,
            model.max_tokens,
            _languages(model),
            model.license,
            ", ".join(_needs(model)),
            "yes" if _has_canary(model) else "no",
        )
        for group in GROUPS
        for model in models
        if model.output == group
    ]
    columns = (
        "group",
        "model",
        "parameters",
        "fp32 weights",
        "dimension",
        "max tokens",
        "languages",
        "license",
        "needs",
        "verified",
    )
    reporter.result([_described(model) for model in models], Table(columns, rows))


def _described(model: CatalogModel) -> dict[str, object]:
    """Return a model as JSON has it."""
    settings = "card" if model.card is not None else "checkpoint"
    return {
        "name": model.name,
        "output": model.output,
        "family": model.family,
        "dimension": model.dimension,
        "max_tokens": model.max_tokens,
        "license": model.license,
        "sources": model.sources,
        "revision": model.revision,
        "aliases": model.aliases,
        "parameters": model.parameters,
        "languages": model.languages,
        "needs": _needs(model),
        "verified": _has_canary(model),
        "settings": settings,
        "card": model.card,
    }


def _has_canary(model: CatalogModel) -> bool:
    """Return whether the package has vectors of a model that HuggingFace's own code computed."""
    return model.card is not None and canary_path(model.name) is not None


def _needs(model: CatalogModel) -> list[str]:
    return ["terms accepted on the hub"] if model.license in TERMS else []


def _languages(model: CatalogModel) -> str:
    return str(model.languages) if isinstance(model.languages, int) else ", ".join(model.languages)


def _count(number: int) -> str:
    """Return a number with two or three digits and its unit: 22.7 M, 568 M, 7.11 G."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if number >= size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number / 1000:.3g} k"
