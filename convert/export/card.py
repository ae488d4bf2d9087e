"""Card of an export: the zoo's, or one that is read from the checkpoint, with the user's options."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from fletcher.model_zoo import CatalogModel, Checkout, ModelCard, read_card
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.locator import FolderSource, HubSource, PackageSource, parse_location
from fletcher.model_zoo.sentence_transformers.heads import OUTPUTS
from fletcher.runtime.errors import CheckpointError, InputError

from ..checkpoint.routes.layout import route_folders, route_types
from ..checkpoint.task_adapters import input_type_of, task_types
from .options import ExportOptions

__all__ = ["check_routes", "model_name", "settle_card"]


def settle_card(checkout: Checkout, options: ExportOptions) -> ModelCard:
    """Return the zoo's card or one that is read from the checkpoint, with the user's longest input.

    Raises:
        InputError: an option contradicts the zoo's card.
        CardError: the checkpoint's files are not those of the model that the zoo lists, or neither the checkpoint nor the
            options name the pooling or the kind of the model.
    """
    pooling, max_tokens, head = options.pooling, options.max_tokens, options.head
    if checkout.card is None:
        name = options.name or model_name(checkout.source) if checkout.model is None else checkout.model.name
        if head is None and checkout.model is not None and checkout.model.output == "sparse":
            head = "splade"  # older files of SPLADE models do not say so
        read = read_card(
            checkout.folder, name=name, pooling=pooling, max_tokens=max_tokens, head=head, dimensions=options.dimensions
        )
        card = read if checkout.model is None else _as_listed(read, checkout.model)
        if options.task is not None:
            chosen = _of_task(card, options.task)
            return chosen if options.name is None else msgspec.structs.replace(chosen, name=options.name)
        types = task_types(checkout.folder) or route_types(checkout.folder, card)
        return msgspec.structs.replace(card, tasks=types) if types else card
    card = checkout.card
    if options.dimensions and tuple(sorted(set(options.dimensions), reverse=True)) != card.matryoshka:
        raise InputError(
            f"--dimensions {','.join(map(str, options.dimensions))} contradicts the card of {card.name}, whose shorter "
            f"lengths are {', '.join(map(str, card.matryoshka)) or 'none'}"
        )
    if head is not None and OUTPUTS[head] != card.output:
        raise InputError(f"--head {head} contradicts the card of {card.name}, whose output is {card.output}")
    if pooling is not None and (pooling,) != card.pooling:
        raise InputError(
            f"--pooling {pooling} contradicts the card of {card.name}, which has {', '.join(card.pooling)}"
        )
    if max_tokens is None:
        return card
    if max_tokens > card.max_tokens:
        raise InputError(f"--max-tokens {max_tokens} exceeds the {card.max_tokens} that the card of {card.name} allows")
    return msgspec.structs.replace(card, max_tokens=max_tokens)


def check_routes(folder: Path, card: ModelCard, options: ExportOptions) -> None:
    """Refuse a model with a Router that Fletcher converts in no other way than these: see `routed_layout`.

    Args:
        folder: layout of its routes, or of the chosen one.
        card: card of the model.
        options: options of the export.

    Raises:
        CheckpointError: the model has adapters for tasks too, or gives scores or a vector for each token.
        InputError: several routes would be traced.
    """
    if task_types(folder):
        raise CheckpointError(f"{folder} has a Router and adapters for tasks, and an input type chooses one of the two")
    if card.output not in ("vectors", "sparse"):
        raise CheckpointError(
            f"{folder} has a Router in a model whose output is {card.output}; Fletcher converts embedders and SPLADE models "
            "with one"
        )
    if options.exporter == "optimum" and route_folders(folder):
        raise InputError("--exporter optimum traces one route: choose it with --task")


def _as_listed(card: ModelCard, model: CatalogModel) -> ModelCard:
    """Return the card that was read from the files of a model of the zoo, with its names, license and prompts there.

    A prompt of the files has precedence over the zoo's.

    Raises:
        CardError: the files are not those of the model that the zoo lists.
    """
    different = [
        f"{key} {ours} instead of {theirs}"
        for key in ("family", "output", "dimension")
        if (ours := getattr(card, key)) != (theirs := getattr(model, key)) and theirs is not None
    ]
    if different:
        raise CardError(
            f"the files of {model.name} at {model.revision} are not those that the zoo lists: {', '.join(different)}"
        )
    return msgspec.structs.replace(
        card,
        license=model.license,
        sources=model.sources,
        revision=model.revision,
        aliases=model.aliases,
        prompts={**model.prompts, **card.prompts},
    )


def _of_task(card: ModelCard, task: str) -> ModelCard:
    """Return the card of a model with the adapter of one task, which takes texts of that task alone."""
    return msgspec.structs.replace(card, name=f"{card.name}-{task}", input_type=input_type_of(task))


def model_name(source: str) -> str:
    """Return a card's name from a canonical source: the folder's, repository's or first package's, in valid letters."""
    match parse_location(source):
        case FolderSource(path=path):
            name = path.name
        case HubSource(repository=repository):
            name = repository.rpartition("/")[2]
        case PackageSource(requirements=requirements):
            name = requirements[0].partition("==")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
