"""Catalog of the zoo: every model that has a name here, its source, size and languages.

Some models have a card with all their settings. For the others, the files of the checkpoint at the pinned commit define them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import msgspec

from .card import ModelCard, Output
from .decode import decode_toml
from .errors import CardError
from .zoo import list_cards, packaged, unknown_name

__all__ = ["CatalogModel", "find_model", "list_models", "read_catalog"]

CATALOG = "catalog.toml"

#: Fields of a model that its card has, or its row where it has no card.
_SETTINGS = ("name", "output", "family", "dimension", "max_tokens", "license", "revision", "aliases")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A model of the zoo.

    Attributes:
        name: the zoo's name.
        output: output of the model.
        family: `model_type` of the checkpoint's `config.json`.
        dimension: length of a vector; of scores their number, of sparse vectors the vocabulary's size.
        max_tokens: longest input, special tokens included.
        license: SPDX identifier.
        sources: sources of the files, in the order of trial.
        revision: hub commit of the sources.
        parameters: number of weights.
        languages: languages by ISO 639 code, or their number.
        aliases: other names of the model.
        card: its settings; None if the files of the checkpoint define them.
    """

    name: str
    output: Output
    family: str
    dimension: int
    max_tokens: int
    license: str
    sources: tuple[str, ...]
    revision: str | None
    parameters: int
    languages: tuple[str, ...] | int
    aliases: tuple[str, ...]
    card: ModelCard | None = None


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of the file. One with a card has its name, size and languages only."""

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


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[_Row, ...]


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
        CardError: the text is not TOML, a key is unknown, missing or of a wrong type, a card has no row, or a name is taken
            twice.
    """
    try:
        rows = decode_toml(data, _File).models
    except msgspec.DecodeError as error:
        raise CardError(f"{CATALOG}: {error}") from error
    models = sorted(_models(rows, {card.name: card for card in cards}), key=lambda model: model.name.lower())
    named: dict[str, CatalogModel] = {}
    for model in models:
        for name in _names(model):
            if named.setdefault(name, model) is not model:
                raise CardError(f"{CATALOG}: two models have the name {name!r}: {named[name].name} and {model.name}")
    if missing := {card.name for card in cards} - {model.name for model in models}:
        raise CardError(f"{CATALOG}: has no row for the card {min(missing)}")
    return tuple(models)


def _models(rows: tuple[_Row, ...], cards: Mapping[str, ModelCard]) -> Iterator[CatalogModel]:
    for row in rows:
        own = (row.source, row.revision, row.family, row.dimension, row.max_tokens, row.license)
        card = cards.get(row.name)
        if card is not None and (any(own) or row.aliases):
            raise CardError(
                f"{CATALOG}: {row.name} has a card, which has its settings: leave name, parameters and languages"
            )
        if card is None and not all(own):
            raise CardError(
                f"{CATALOG}: {row.name} has no card, and needs source, revision, family, dimension, max_tokens and license"
            )
        settings = {name: getattr(row if card is None else card, name) for name in _SETTINGS}
        yield CatalogModel(
            **settings,
            sources=(f"hf:{row.source}",) if card is None else card.sources,
            parameters=row.parameters,
            languages=row.languages,
            card=card,
        )


@cache
def _index() -> dict[str, CatalogModel]:
    return {name: model for model in list_models() for name in _names(model)}


def _names(model: CatalogModel) -> set[str]:
    """Return the names of a model in lower case."""
    return {name.lower() for name in (model.name, *model.aliases)}
