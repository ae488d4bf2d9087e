"""Comparison of an artifact with the zoo's own card and canary, which come with this package and not with the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.zoo import canary_path, load_card

from ..artifact.folder import Artifact
from ..canary import Canary, read_canary
from ..errors import ArtifactError, CanaryError, InputError

__all__ = ["check_zoo", "shorten_canary"]

#: Fields of a card that decide vectors. The longest input is compared separately, because an export may shorten it.
DECIDING = (
    "family",
    "dimension",
    "pooling",
    "normalize",
    "prompts",
    "matryoshka",
    "layer_norm_before_truncation",
    "output",
    "labels",
    "activation",
    "late_interaction",
    "logit_score",
    "input_type",
)


def check_zoo(artifact: Artifact) -> None:
    """Compare the artifact of a model of the zoo with this package's card and canary.

    The manifest's own words are not enough: who changes weights can compute another canary. An artifact is one of the
    zoo's if it states so: its canary is published, or its source is one of the card's.

    Raises:
        ArtifactError: the zoo has no such card or canary, or the card says something else.
        CanaryError: the canary is not the zoo's.
    """
    manifest, path = artifact.manifest, artifact.path
    published = manifest.canary_reference == "published"
    try:
        card = load_card(manifest.card.name)
    except CardError:
        card = None
    if card is None or not (published or _comes_from(card, manifest.origin.source)):
        if published:
            raise ArtifactError(
                f"{path} states that the authors' vectors of {manifest.card.name!a} are its canary, and the zoo of this "
                "version of Fletcher has no such model: install the version that wrote it, or ask for its origin"
            )
        return
    differences = [name for name in DECIDING if _plain(manifest.card, name) != _plain(card, name)]
    if manifest.card.max_tokens > card.max_tokens:
        differences.append("max_tokens")
    if differences:
        raise ArtifactError(
            f"{path} says that it is {card.name}, and its card differs from the zoo's in {', '.join(differences)}: convert "
            "the checkpoint again, or ask for the artifact's origin"
        )
    file = canary_path(card.name)
    if published and file is None:
        raise ArtifactError(f"{path} states that its canary is published, and the zoo has none of {card.name}")
    if file is None:
        return
    if not published or not _equal(read_canary(artifact.canary_file), shorten_canary(file, manifest.card)):
        raise CanaryError(
            f"the canary of {path} is not the zoo's canary of {card.name}, so it proves nothing about the weights: convert "
            "the checkpoint again, or ask for the artifact's origin"
        )


def shorten_canary(path: Path, card: ModelCard) -> Canary:
    """Read the card's canary without the texts that a lower --max-tokens would truncate.

    Raises:
        InputError: no text remains.
    """
    canary = read_canary(path)
    if canary.encodings.lengths.max() <= card.max_tokens:
        return canary
    rows = np.flatnonzero(canary.encodings.lengths < card.max_tokens)
    if not len(rows):
        raise InputError(
            f"--max-tokens {card.max_tokens} leaves no text of the canary of {card.name}: choose a larger one"
        )
    texts = tuple(canary.texts[row] for row in rows)
    return Canary(texts, canary.encodings.select(rows), canary.vectors[rows], canary.origin)


def _comes_from(card: ModelCard, source: str) -> bool:
    """Return whether a canonical source, perhaps with its revision, is one of the card's."""
    return any(source == each or source.startswith(f"{each}@") for each in card.sources)


def _plain(card: ModelCard, name: str) -> Any:
    value = getattr(card, name)
    if value is msgspec.UNSET:
        return None
    return dict(value) if isinstance(value, Mapping) else msgspec.to_builtins(value)


def _equal(ours: Canary, zoo: Canary) -> bool:
    """Return whether two canaries have the same texts, token ids and vectors."""
    return (
        (ours.texts, ours.queries) == (zoo.texts, zoo.queries)
        and np.array_equal(ours.encodings.ids, zoo.encodings.ids)
        and np.array_equal(ours.encodings.offsets, zoo.encodings.offsets)
        and np.array_equal(ours.vectors, zoo.vectors)
    )
