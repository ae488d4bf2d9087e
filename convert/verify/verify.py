"""Verification of an artifact against the HuggingFace model in float32, on the same texts.

It compares the token ids, the vectors (or the model's other output), and each text's vector alone with that in a batch.
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
    artifact: str | Path,
    reference: str | None = None,
    *,
    texts: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compare an artifact with the HuggingFace model in float32, and record it in the artifact's manifest if all agree.

    A difference is not raised: the report has a verdict, and `VerificationReport.raise_if_failed` turns it into an error.

    Args:
        artifact: the artifact's folder.
        reference: SOURCE of the checkpoint to compare with; None is the one that the artifact was made from.
        texts: texts to compare besides the built-in ones.
        variant: the only variant to compare, and nothing is recorded then; None compares all that run on this machine.
        progress: receives messages and counts. Default: nothing is reported.

    Returns:
        The figures of each variant and the verdict.

    Raises:
        ArtifactError: the artifact cannot be read, or its canary fails.
        SourceError: the reference cannot be fetched.
        ChecksumError: the reference differs from the checkpoint that the artifact was made from.
        CheckpointError: transformers cannot load the reference.
        MissingPackageError: torch or transformers is not installed.
    """
    opened = Artifact.open(artifact)
    folder, name = fetch_reference(opened, reference, progress)
    card = opened.manifest.card
    loaded = Reference.load(folder, card) if card.output == "vectors" else HeadReference.load(folder, card)
    report = verify_with(artifact, loaded, name=name, texts=texts, variant=variant, progress=progress)
    if report.verdict == "passed" and report.complete:
        stamp(artifact, report.stamp, digest=report.digest)
    return report


def fetch_reference(artifact: Artifact, source: str | None, progress: Progress) -> tuple[Path, str]:
    """Check the artifact's files, then fetch the checkpoint to compare with.

    Args:
        artifact: artifact to verify.
        source: SOURCE of the checkpoint; None is the one that the artifact was made from.
        progress: receives messages and counts.

    Returns:
        The checkpoint's folder, and its name in reports.

    Raises:
        ArtifactError: the artifact is damaged.
        SourceError: the checkpoint cannot be fetched.
        ChecksumError: the checkpoint differs from the one that the artifact was made from.
    """
    artifact.check_files()
    origin = artifact.manifest.origin
    checkout = fetch(source or origin.source, progress=progress)
    if source is None:
        _check_origin(checkout.sha256, origin.sha256, origin.source)
    revision = f"@{checkout.revision}" if checkout.revision and checkout.revision not in checkout.source else ""
    return checkout.folder, f"{checkout.source}{revision}"


def verify_with(
    artifact: str | Path,
    reference: Reference | HeadReference,
    *,
    name: str,
    texts: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compare an artifact with a loaded reference; write nothing.

    Args:
        artifact: the artifact's folder.
        reference: the model.
        name: name of the reference in the report.
        texts: texts to compare besides the built-in ones.
        variant: the only variant to compare; None compares all that run on this machine.
        progress: receives messages and counts. Default: nothing is reported.
    """
    opened = Artifact.open(artifact)
    card = opened.manifest.card
    variants, complete = choose_variants(opened, variant)
    if isinstance(reference, Reference):
        question = ask_for_vectors(reference, card, texts, progress)
    else:
        question = ask_head(reference, card, texts, progress)
    ids, results = ask_variants(opened, variants, question, progress)
    return build_report(opened, name, question.tools, complete, ids, results)


def _check_origin(digests: Mapping[str, str], recorded: Mapping[str, str], source: str) -> None:
    changed = sorted(name for name, digest in recorded.items() if digests.get(name, digest) != digest)
    if changed:
        raise ChecksumError(
            f"{source} differs from the checkpoint that the artifact was made from: {', '.join(changed)} changed. "
            "Convert it again, or name the checkpoint to compare with by --reference"
        )
