"""The artifact of a model that is named as in sentence-transformers: converted at the first use, and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fletcher
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.sources.cache import cache_folder, slug
from fletcher.model_zoo.zoo import load_card
from fletcher.runtime.artifact.folder import MANIFEST
from fletcher.runtime.machine.gpus import this_gpus

__all__ = ["find_artifact"]

logger = logging.getLogger("fletcher.integrations")

#: Folder of converted models in the cache.
CONVERTED = "converted"

#: Organization of models whose name has none, as in sentence-transformers.
ORGANIZATION = "sentence-transformers"


def find_artifact(model: str | Path, *, cache_dir: Path | None = None, revision: str | None = None) -> Path:
    """Return the folder of a model's artifact, and convert the model if the cache has no artifact of it.

    A converted model is kept in `converted/` of Fletcher's cache until the folder is deleted. The folder of a checkpoint is
    converted again when one of its files changes. With an NVIDIA GPU, the artifact has a graph for it too.

    Args:
        model: the folder of an artifact or of a checkpoint, a name of the zoo, or a hub id; a name without an organization
            that the zoo does not have is one of `sentence-transformers`.
        cache_dir: the cache. Default: FLETCHER_CACHE, XDG_CACHE_HOME/fletcher or ~/.cache/fletcher.
        revision: branch, tag or commit of a hub id.

    Raises:
        FletcherError: the model cannot be fetched or converted; see `fletcher.convert.export.export.export`.
    """
    path = Path(model).expanduser()
    if (path / MANIFEST).is_file():
        return path
    source, state = (str(path.resolve()), _state(path)) if path.is_dir() else (_source(str(model), revision), "")
    targets = ("cpu", "cuda") if this_gpus().gpus else ("cpu",)
    name = slug(" ".join([source, state, fletcher.__version__, *targets]))
    folder = cache_folder(cache_dir) / CONVERTED / name
    with _only_user(folder):
        if not (folder / MANIFEST).is_file():
            from fletcher.convert.export.export import (
                export,  # imported here because an artifact is loaded without onnx
            )

            logger.info("converting", extra={"fields": {"model": source, "folder": str(folder)}})
            export(source, folder, targets=targets)
    return folder


def _source(name: str, revision: str | None) -> str:
    """Return the SOURCE of a name: the zoo's, so that each of a card's sources is tried, or a hub id."""
    if ":" in name:
        return name
    try:
        card = load_card(name)
    except CardError:
        name = name if "/" in name else f"{ORGANIZATION}/{name}"
        return name if revision is None else f"{name}@{revision}"
    if revision in (None, card.revision):
        return card.name
    hub = next((source.removeprefix("hf:") for source in card.sources if source.startswith("hf:")), card.name)
    return f"{hub}@{revision}"


def _state(folder: Path) -> str:
    """Return a digest of the names, sizes and times of a checkpoint's files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    parts = [f"{file.relative_to(folder)} {(stat := file.stat()).st_size} {stat.st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _only_user(folder: Path) -> Iterator[None]:
    """Hold a lock file beside a folder, so that of several processes one converts and the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
