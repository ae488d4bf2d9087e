"""Catalog of the zoo: every model that has a name here, its source, size, languages and published accuracy.

Some models have a card with all their settings. For the others, the files of the checkpoint at the pinned commit define them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import msgspec

from .card import INPUT_TYPES, ModelCard, Output
from .decode import decode_toml
from .errors import CardError
from .zoo import list_cards, packaged, unknown_name

__all__ = ["CatalogModel", "Figure", "find_model", "list_models", "read_catalog"]

CATALOG = "catalog.toml"

#: Fields of a model that its card has, or its row where it has no card.
_SETTINGS = ("name", "output", "family", "dimension", "max_tokens", "license", "revision", "aliases", "prompts")

#: Settings that a row without a card must have. A model that Fletcher refuses needs no family and no commit.
_REQUIRED = ("source", "dimension", "max_tokens", "license")
_REQUIRED_TO_CONVERT = ("revision", "family")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A published figure of a model's accuracy on a benchmark.

    Attributes:
        benchmark: name and version of the benchmark.
        metric: metric of its tasks, in a word or two.
        method: tasks over which the figure is a mean, and the rules of the measurement.
        source: publisher of the figure.
        value: the figure, of which 100 is the best.
    """

    benchmark: str
    metric: str
    method: str
    source: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A model of the zoo.

    Attributes:
        name: the zoo's name.
        output: output of the model.
        family: `model_type` of the checkpoint's `config.json`; None if it is not known.
        dimension: length of a vector; of scores their number, of sparse vectors the vocabulary's size.
        max_tokens: longest input, special tokens included.
        license: SPDX identifier.
        sources: sources of the files, in the order of trial.
        revision: hub commit of the sources.
        parameters: number of weights.
        languages: languages by ISO 639 code (`mul` for several that are not listed), or their number.
        aliases: other names of the model.
        prompts: prompts by input type that its authors publish; those of the checkpoint's own files have precedence.
        figures: published accuracy, the first of which stands for the model.
        refused: reason why Fletcher does not convert the model; None if it does.
        card: its settings; None if the files of the checkpoint define them.
    """

    name: str
    output: Output
    family: str | None
    dimension: int
    max_tokens: int
    license: str
    sources: tuple[str, ...]
    revision: str | None
    parameters: int
    languages: tuple[str, ...] | int
    aliases: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    refused: str | None = None
    card: ModelCard | None = None


class _Benchmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A benchmark of the file, by whose key rows have their figures."""

    name: str
    metric: str
    method: str
    source: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of the file. One with a card has its name, size, languages and figures only."""

    name: str
    parameters: int
    languages: tuple[str, ...] | int
    source: str | None = None
    revision: str | None = None
    family: str | None = None
    output: Output = "vectors"
    dimension: int | None = None
    max_tokens: int | None = None
    license: str | None = None
    aliases: tuple[str, ...] = ()
    prompts: Mapping[str, str] = {}
    figures: Mapping[str, float] = {}
    refused: str | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[_Row, ...]
    benchmarks: Mapping[str, _Benchmark] = {}


@cache
def list_models() -> tuple[CatalogModel, ...]:
    """Return all models of the zoo, sorted by name.

    Raises:
        CardError: a packaged card or the catalog is malformed.
    """
    return read_catalog(packaged(CATALOG).read_bytes(), list_cards())


def find_model(name: str) -> CatalogModel:
    """Return a model.

    Args:
        name: the model's name, or one of its aliases; case does not matter.

    Raises:
        CardError: no model has that name; the message has the closest names.
    """
    index = _index()
    if (model := index.get(name.strip().lower())) is None:
        raise unknown_name(name, {key: model.name for key, model in index.items()})
    return model


def read_catalog(data: bytes, cards: tuple[ModelCard, ...]) -> tuple[CatalogModel, ...]:
    """Return the models of a catalog, sorted by name.

    Args:
        data: the TOML text.
        cards: cards of the zoo.

    Raises:
        CardError: the text is not TOML, a key is unknown, missing or of a wrong type, a card has no row, a name is taken
            twice, or a figure is of an unknown benchmark or not between 0 and 100.
    """
    try:
        file = decode_toml(data, _File)
    except msgspec.DecodeError as error:
        raise CardError(f"{CATALOG}: {error}") from error
    models = sorted(_models(file, {card.name: card for card in cards}), key=lambda model: model.name.lower())
    named: dict[str, CatalogModel] = {}
    for model in models:
        for name in _names(model):
            if named.setdefault(name, model) is not model:
                raise CardError(f"{CATALOG}: two models have the name {name!r}: {named[name].name} and {model.name}")
    if missing := {card.name for card in cards} - {model.name for model in models}:
        raise CardError(f"{CATALOG}: has no row for the card {min(missing)}")
    return tuple(models)


def _models(file: _File, cards: Mapping[str, ModelCard]) -> Iterator[CatalogModel]:
    for row in file.models:
        card = cards.get(row.name)
        _check_row(row, card)
        settings = {name: getattr(row if card is None else card, name) for name in _SETTINGS}
        yield CatalogModel(
            **settings,
            sources=(f"hf:{row.source}",) if card is None else card.sources,
            parameters=row.parameters,
            languages=row.languages,
            figures=tuple(_figures(row, file.benchmarks)),
            refused=row.refused,
            card=card,
        )


def _check_row(row: _Row, card: ModelCard | None) -> None:
    """Raise if a row lacks settings, repeats those of a card, or has a prompt of an unknown input type."""
    given = {name for name in (*_REQUIRED, *_REQUIRED_TO_CONVERT) if getattr(row, name)}
    if card is not None and (given or row.aliases or row.prompts or row.refused):
        raise CardError(
            f"{CATALOG}: {row.name} has a card, which has its settings: leave name, parameters, languages and figures"
        )
    required = (*_REQUIRED, *(() if row.refused else _REQUIRED_TO_CONVERT))
    if card is None and (missing := [name for name in required if name not in given]):
        raise CardError(f"{CATALOG}: {row.name} has no card, and needs {', '.join(missing)}")
    if unknown := set(row.prompts) - set(INPUT_TYPES):
        raise CardError(
            f"{CATALOG}: {row.name}: `prompts.{min(unknown)}`: the input types are {', '.join(INPUT_TYPES)}"
        )


def _figures(row: _Row, benchmarks: Mapping[str, _Benchmark]) -> Iterator[Figure]:
    for key, value in row.figures.items():
        if (of := benchmarks.get(key)) is None:
            raise CardError(
                f"{CATALOG}: {row.name}: `figures.{key}`: the benchmarks are {', '.join(benchmarks) or 'none'}"
            )
        if not 0 < value < 100:
            raise CardError(f"{CATALOG}: {row.name}: `figures.{key}`: must be between 0 and 100, and is {value}")
        yield Figure(benchmark=of.name, metric=of.metric, method=of.method, source=of.source, value=value)


@cache
def _index() -> dict[str, CatalogModel]:
    return {name: model for model in list_models() for name in _names(model)}


def _names(model: CatalogModel) -> set[str]:
    """Return the names of a model in lower case."""
    return {name.lower() for name in (model.name, *model.aliases)}
