"""`find_reranker`: a reranker whose scores filter or teach, from an artifact or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fletcher.model_zoo import Checkout, fetch
from fletcher.model_zoo.progress import Progress
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.errors import InputError

from .load import convert_trainable, read_card

__all__ = ["Reranker", "convert_reranker", "find_reranker"]


@dataclass(frozen=True, slots=True)
class Reranker:
    """`Reranker`: a reranker on this machine.

    Attributes:
        source: folder of the artifact, or SOURCE of the checkpoint.
        checkout: files of the checkpoint; None for an artifact.
        digest: digest of the artifact, or of each file of the checkpoint.
    """

    source: str
    checkout: Checkout | None
    digest: object


def find_reranker(source: str, progress: Progress) -> Reranker:
    """Find a reranker, and check that it gives scores.

    Raises:
        InputError: the model gives something else.
        SourceError: the checkpoint cannot be fetched.
        CheckpointError: it cannot be converted.
        ArtifactError: the artifact cannot be read.
    """
    if (Path(source) / MANIFEST).is_file():
        artifact = Artifact.open(source)
        found, card = Reranker(source, None, artifact.digest), artifact.manifest.card
    else:
        checkout = fetch(source, progress=progress)
        found, card = Reranker(source, checkout, dict(checkout.sha256)), read_card(checkout, progress)
    if card.output != "scores":
        raise InputError(
            f"--reranker {source} gives {card.output.replace('_', ' ')}: give a cross-encoder, which gives scores to pairs"
        )
    return found


def convert_reranker(reranker: Reranker, folder: Path, progress: Progress) -> Path:
    """Return the folder of the reranker's artifact.

    Args:
        reranker: the reranker.
        folder: folder for the artifact of a checkpoint; an artifact of the same files there is used again.
        progress: receives lines.

    Raises:
        CheckpointError: the checkpoint cannot be converted.
    """
    if reranker.checkout is None:
        return Path(reranker.source)
    return convert_trainable(reranker.source, reranker.checkout, folder, progress).artifact.path
