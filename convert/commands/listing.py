"""The zoo as text: tables of its models in groups, and one model with its prompts and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, get_args

from fletcher.model_zoo import CatalogModel, Figure, canary_path
from fletcher.runtime.commandline.reporter import Reporter, Table

__all__ = ["GROUPS", "group_of", "show_model", "show_zoo"]

#: Groups of models, in the order of the tables.
Group = Literal[
    "dense",
    "static",
    "reranker",
    "classifier",
    "sparse (SPLADE)",
    "late interaction (ColBERT)",
]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)

#: Bytes of a weight in float32, as the processor computes.
FLOAT32: Final = 4

#: Title of the table of models that Fletcher refuses.
REFUSED: Final = "not converted yet (`model show NAME` says why)"

#: Licenses whose terms must be accepted on the hub before it gives the files; the need, and its short form in a table.
TERMS: Final = ("LicenseRef-Gemma",)
TERMS_ACCEPTED: Final = "terms accepted on the hub"
SHORT: Final[Mapping[str, str]] = MappingProxyType({TERMS_ACCEPTED: "hub terms"})

#: Beginning of the identifiers of licenses that SPDX does not list.
UNLISTED: Final = "LicenseRef-"

#: Beginning of the licenses that forbid commercial use, the mark of such a license, and the line that explains the mark.
NON_COMMERCIAL: Final = "CC-BY-NC"
MARK: Final = "*"
NOTES: Final = (
    f"{MARK} for non-commercial use only",
    "`fletcher-convert model show NAME` shows a model's prompts and figures.",
)

COLUMNS: Final = (
    "model",
    "weights",
    "fp32",
    "dimension",
    "tokens",
    "languages",
    "license",
    "needs",
    "accuracy",
    "verified",
)
#: Columns that a narrow terminal does not show, the least important one first.
OPTIONAL: Final = (
    "fp32",
    "languages",
    "verified",
    "needs",
    "accuracy",
    "tokens",
    "dimension",
    "weights",
)


def show_zoo(reporter: Reporter, models: Sequence[CatalogModel]) -> None:
    """Print the models of the zoo.

    Args:
        reporter: printer.
        models: the models.
    """
    rows: dict[str, list[tuple[object, ...]]] = {title: [] for title in (*GROUPS, REFUSED)}
    for model in models:
        rows[group_of(model) if model.refused is None else REFUSED].append(_row(model))
    tables = [Table(COLUMNS, cells, title=title, optional=OPTIONAL) for title, cells in rows.items() if cells]
    reporter.result([_described(model) for model in models], tables)
    if not reporter.as_json:
        for note in NOTES:
            reporter.line(note)


def show_model(reporter: Reporter, model: CatalogModel) -> None:
    """Print one model of the zoo.

    Args:
        reporter: printer.
        model: the model.
    """
    described = _described(model)
    if reporter.as_json:
        reporter.result(described)
        return
    shown = {
        "name": model.name,
        "kind": group_of(model),
        "aliases": model.aliases,
        "source": model.sources,
        "commit": model.revision,
        "family": model.family,
        "weights": f"{model.parameters:,}, {_count(model.parameters * FLOAT32)}B in float32",
        "dimension": model.dimension,
        "longest input": f"{model.max_tokens:,} tokens",
        "languages": _languages(model),
        "license": f"{model.license}{', for non-commercial use only' if _is_non_commercial(model) else ''}",
        "needs": _needs(model),
        "verified": _has_canary(model),
        "converted": "yes" if model.refused is None else f"no: {model.refused}",
        "settings": "card of the zoo" if model.card is not None else "files of the checkpoint",
        **_shown_prompts(model),
        **_shown_figures(model.figures),
    }
    reporter.result(shown)


def group_of(model: CatalogModel) -> Group:
    """Return the group of a model: by its output, and of its family if its vectors are a table's."""
    match model.output:
        case "vectors":
            return "static" if model.family == "static_embedding" else "dense"
        case "scores":
            return "reranker" if model.dimension == 1 else "classifier"
        case "sparse":
            return "sparse (SPLADE)"
        case "token_vectors":
            return "late interaction (ColBERT)"


def _row(model: CatalogModel) -> tuple[object, ...]:
    """Return the cells of a model, in the order of `COLUMNS`."""
    return (
        model.name,
        _count(model.parameters),
        f"{_count(model.parameters * FLOAT32)}B",
        model.dimension,
        model.max_tokens,
        _languages(model),
        model.license.removeprefix(UNLISTED) + (f" {MARK}" if _is_non_commercial(model) else ""),
        ", ".join(SHORT[need] for need in _needs(model)),
        f"{model.figures[0].value:.1f} {_benchmark(model.figures[0])}" if model.figures else None,
        "yes" if _has_canary(model) else "no",
    )


def _described(model: CatalogModel) -> dict[str, object]:
    """Return a model as JSON has it."""
    settings = "card" if model.card is not None else "checkpoint"
    return {
        "name": model.name,
        "group": group_of(model),
        "output": model.output,
        "family": model.family,
        "dimension": model.dimension,
        "max_tokens": model.max_tokens,
        "license": model.license,
        "non_commercial": _is_non_commercial(model),
        "sources": model.sources,
        "revision": model.revision,
        "aliases": model.aliases,
        "parameters": model.parameters,
        "languages": model.languages,
        "needs": _needs(model),
        "refused": model.refused,
        "verified": _has_canary(model),
        "prompts": model.prompts,
        "figures": model.figures,
        "settings": settings,
        "card": model.card,
    }


def _shown_prompts(model: CatalogModel) -> Mapping[str, str]:
    if not model.prompts:
        return {"prompts": "none" if model.card is not None else "those of the checkpoint, if any"}
    # A prompt ends in blanks that count, and may have line breaks.
    texts = {name: text.replace("\n", "\\n") for name, text in model.prompts.items()}
    return {f"prompt of {name}": f'"{text}"' for name, text in texts.items()}


def _shown_figures(figures: Sequence[Figure]) -> Mapping[str, str]:
    if not figures:
        return {"accuracy": "no figure with a source is known"}
    return {_benchmark(figure): f"{figure.value:.2f}, {figure.method}; from {figure.source}" for figure in figures}


def _benchmark(figure: Figure) -> str:
    return f"{figure.benchmark} {figure.metric}"


def _has_canary(model: CatalogModel) -> bool:
    """Return whether the package has vectors of a model that HuggingFace's own code computed."""
    return model.card is not None and canary_path(model.name) is not None


def _is_non_commercial(model: CatalogModel) -> bool:
    return model.license.startswith(NON_COMMERCIAL)


def _needs(model: CatalogModel) -> list[str]:
    return [TERMS_ACCEPTED] if model.license in TERMS else []


def _languages(model: CatalogModel) -> str:
    return str(model.languages) if isinstance(model.languages, int) else ", ".join(model.languages)


def _count(number: int) -> str:
    """Return a number with two or three digits and its unit: 22.7 M, 568 M, 7.11 G."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if number >= size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number / 1000:.3g} k"
