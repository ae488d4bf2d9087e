"""Cards of the zoo: it finds, reads and validates them, without checkpoints and without the network."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from .card import ModelCard
from .consistency import check_card
from .decode import decode_toml
from .errors import CardError

__all__ = ["canary_path", "list_cards", "load_card", "packaged", "parse_card", "published_digest", "unknown_name"]


def parse_card(data: bytes, where: str) -> ModelCard:
    """Read and validate one card.

    Args:
        data: the TOML text.
        where: the file's name, for messages.

    Raises:
        CardError: the text is not TOML, a key is unknown, missing or of a wrong type, or values contradict each other;
            the message names the file and the key.
    """
    try:
        card = decode_toml(data, ModelCard)
    except msgspec.DecodeError as error:  # a ValidationError is one too; its text ends with the key's path
        raise CardError(f"{where}: {error}") from error
    return check_card(card, where)


def list_cards() -> tuple[ModelCard, ...]:
    """Return all cards of the zoo, sorted by name.

    Raises:
        CardError: a packaged card is malformed, or two of them claim one name.
    """
    cards = {card.name: card for card in _index().values()}
    return tuple(sorted(cards.values(), key=lambda card: card.name.lower()))


def load_card(name: str) -> ModelCard:
    """Return the card of a model.

    Args:
        name: the card's name, one of its aliases, or its hub id (`org/name`); case does not matter.

    Raises:
        CardError: no card has that name; the message has the closest names.
    """
    index = _index()
    card = index.get(name.strip().lower())
    if card is not None:
        return card
    raise unknown_name(name, {key: card.name for key, card in index.items()})


def unknown_name(name: str, names: Mapping[str, str]) -> CardError:
    """Return the error for a name that no model has, with the closest names.

    Args:
        name: the name that was asked for.
        names: name of the model by each of its names in lower case.
    """
    near = difflib.get_close_matches(name.strip().lower(), names, n=8, cutoff=0.5)
    closest = list(dict.fromkeys(names[key] for key in near))[:3]
    hint = f"Did you mean {' or '.join(closest)}?" if closest else "`fletcher-convert model list` shows them all."
    return CardError(f"The zoo has no model {name!r}. {hint}")


def canary_path(name: str) -> Path | None:
    """Return the file of a model's packaged reference vectors, or None if the zoo has none.

    Raises:
        CardError: no card has that name.
    """
    path = packaged("canaries") / f"{load_card(name).name}.safetensors"
    return path if isinstance(path, Path) and path.is_file() else None


def published_digest(name: str) -> str | None:
    """Return the digest, 64 hexadecimal digits, of the artifact that an export of a model by this version writes.

    Returns:
        None if this version publishes none: it has no weights to compute it, or no model of that name.
    """
    digests: dict[str, str] = tomllib.loads(packaged("digests.toml").read_text(encoding="utf-8"))
    return digests.get(name)


def packaged(name: str) -> Traversable:
    """Return a file or folder of this package."""
    # Wheels and editable installs are both plain folders; a zipped import is not (safetensors are memory-mapped).
    return resources.files(__package__) / name


@cache
def _index() -> dict[str, ModelCard]:
    """Return every card by each of its names, in lower case."""
    index: dict[str, ModelCard] = {}
    for file in sorted(packaged("cards").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        card = parse_card(file.read_bytes(), file.name)
        if file.name != f"{card.name}.toml":
            raise CardError(f"{file.name}: `name`: {card.name!r} is not the file's name")
        _add(index, card, file.name)
    return index


def _add(index: dict[str, ModelCard], card: ModelCard, where: str) -> None:
    hub_ids = (source.removeprefix("hf:") for source in card.sources if source.startswith("hf:"))
    for name in (card.name, *card.aliases, *hub_ids):
        taken = index.setdefault(name.lower(), card)
        if taken is not card:
            raise CardError(f"{where}: `aliases`: {name!r} already names {taken.name}")
