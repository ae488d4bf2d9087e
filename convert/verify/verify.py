"""Verification: the artifact against the HuggingFace model in float32, on the same texts.

Three questions, in this order: are the token ids equal, are the vectors (or what else the model gives), and does a text's
vector stay what it is in a batch?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fletcher.model_zoo import fetch
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import stamp
from fletcher.runtime.errors import ChecksumError

from ..reference.heads import HeadReference
from ..reference.vectors import Reference
from .comparison import ask_variants, build_report, choose_variants
from .heads import ask_head
from .report import VerificationReport
from .vectors import ask_for_vectors

__all__ = ["fetch_reference", "verify", "verify_with"]


def verify(
    path: str | Path,
    *,
    reference: str | None = None,
    texts: Sequence[str] | None = None,
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compares an artifact with the HuggingFace model, and stamps its manifest if it passed whole.

    A failure is told by the report's verdict; `VerificationReport.raise_if_failed` turns it into an error.

    Args:
        path: the artifact's folder.
        reference: SOURCE of the checkpoint to compare with; None is the one that the artifact was made from.
        texts: compared besides the built-in ones.
        variant: the only variant to compare; None compares all that run on this machine, and only then a stamp is written.
        progress: receives messages and counts.

    Raises:
        ArtifactError: the artifact cannot be read, or its canary fails.
        SourceError: the reference cannot be fetched.
        ChecksumError: the reference is no longer the checkpoint that the artifact was made from.
        CheckpointError: transformers cannot load the reference.
        MissingPackageError: torch or transformers is not installed.
    """
    artifact = Artifact.open(path)
    folder, name = fetch_reference(artifact, reference, progress)
    card = artifact.manifest.card
    loaded = Reference.load(folder, card) if card.output == "vectors" else HeadReference.load(folder, card)
    report = verify_with(path, loaded, name=name, texts=texts, variant=variant, progress=progress)
    if report.verdict == "passed" and report.complete:
        stamp(path, report.stamp, digest=report.digest)
    return report


def fetch_reference(artifact: Artifact, source: str | None, progress: Progress) -> tuple[Path, str]:
    """Checks the artifact's files, then fetches the checkpoint to compare with.

    Args:
        artifact: what is verified.
        source: SOURCE of the checkpoint; None is the one that the artifact was made from.
        progress: receives messages and counts.

    Returns:
        Its folder, and what reports call it.

    Raises:
        ArtifactError: the artifact is damaged.
        SourceError: the checkpoint cannot be fetched.
        ChecksumError: it is no longer the checkpoint that the artifact was made from.
    """
    artifact.check_files()
    origin = artifact.manifest.origin
    checkout = fetch(source or origin.source, progress=progress)
    if source is None:
        _check_origin(checkout.sha256, origin.sha256, origin.source)
    revision = f"@{checkout.revision}" if checkout.revision and checkout.revision not in checkout.source else ""
    return checkout.folder, f"{checkout.source}{revision}"


def verify_with(
    path: str | Path,
    reference: Reference | HeadReference,
    *,
    name: str,
    texts: Sequence[str] | None = None,
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compares an artifact with a reference that was loaded; writes nothing.

    Args:
        path: the artifact's folder.
        reference: the model.
        name: what the report calls it.
        texts: compared besides the built-in ones.
        variant: the only variant to compare; None compares all that run on this machine.
        progress: receives messages and counts.
    """
    artifact = Artifact.open(path)
    card = artifact.manifest.card
    variants, complete = choose_variants(artifact, variant)
    if isinstance(reference, Reference):
        question = ask_for_vectors(reference, card, texts or (), progress)
    else:
        question = ask_head(reference, card, texts or (), progress)
    ids, results = ask_variants(artifact, variants, question, progress)
    return build_report(artifact, name, question.tools, complete, ids, results)


def _check_origin(found: Mapping[str, str], recorded: Mapping[str, str], source: str) -> None:
    changed = sorted(name for name, digest in recorded.items() if found.get(name, digest) != digest)
    if changed:
        raise ChecksumError(
            f"{source} is no longer the checkpoint that the artifact was made from: {', '.join(changed)} changed. "
            "Convert it again, or name the checkpoint to compare with by --reference"
        )
