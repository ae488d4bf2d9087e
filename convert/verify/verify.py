"""Verification of an artifact: sentence-transformers runs the untouched checkpoint, and the artifact must agree with it.

It compares token ids, results through the methods that users call, and each text alone with the same text in a batch.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

from fletcher.model_zoo import Checkout, fetch
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import stamp
from fletcher.runtime.errors import ArtifactError, CheckpointError, ChecksumError

from ..checkpoint.tokenizer_version import explain_versions
from ..reference.load import load_witness
from ..reference.witness import Witness
from .comparison import ask_reference, choose_variants, compare_variant, versions
from .diagnosis import Differences, find_cause
from .report import VerificationReport
from .settings import judge_settings, list_settings
from .texts import make_cases
from .versions import find_gap

__all__ = ["fetch_reference", "is_installed", "reference_name", "verify", "verify_with"]


#: First version of sentence-transformers that has `MultiVectorEncoder`.
OLDEST = 6


def is_installed() -> bool:
    """Return whether the packages of the extra `verify` that compute the reference are installed."""
    found = versions("sentence-transformers", "torch", "transformers")
    return len(found) == 3 and int(found["sentence-transformers"].partition(".")[0]) >= OLDEST


def verify(
    artifact: str | Path,
    reference: str | None = None,
    *,
    texts: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compare an artifact with sentence-transformers in float32, and record it in the artifact's manifest if they agree.

    A difference is not raised: the report has a verdict, and `VerificationReport.raise_if_failed` turns it into an error.

    Args:
        artifact: the artifact's folder.
        reference: SOURCE of the checkpoint to compare with; None is the one that the artifact was made from.
        texts: texts of the user, of which a sample is compared besides those made from the checkpoint.
        variant: the only variant to compare, and nothing is recorded then; None compares all that run on this machine.
        progress: receives messages and counts. Default: nothing is reported.

    Returns:
        The figures of each variant, the settings that the texts exercised, and the verdict.

    Raises:
        ArtifactError: the artifact cannot be read, or not be written to record the result, or its canary fails.
        SourceError: the reference cannot be fetched.
        ChecksumError: the reference differs from the checkpoint that the artifact was made from.
        CheckpointError: sentence-transformers cannot load the reference.
        MissingPackageError: torch, transformers or sentence-transformers is not installed.
    """
    opened = Artifact.open(artifact)
    folder = opened.path.resolve()
    if variant is None and not (os.access(folder, os.W_OK) and os.access(folder.parent, os.W_OK)):
        # Known before the work of minutes whose result could not be recorded.
        raise ArtifactError(
            f"{opened.path} cannot be written, so a verification cannot be recorded: copy the artifact to a folder of yours, "
            "or name one --variant, for which nothing is recorded"
        )
    checkout = fetch_reference(opened, reference, progress)
    progress.line("loading the reference")
    witness = load_witness(checkout.folder, opened.manifest.card, zoo=checkout.has_published_settings)
    name = reference_name(checkout)
    report = verify_with(artifact, witness, name=name, texts=texts, variant=variant, progress=progress)
    if report.verdict == "passed" and report.complete:
        stamp(artifact, report.stamp, digest=report.digest)
    return report


def fetch_reference(artifact: Artifact, source: str | None, progress: Progress) -> Checkout:
    """Check the artifact's files, then fetch the checkpoint to compare with.

    Args:
        artifact: artifact to verify.
        source: SOURCE of the checkpoint; None is the one that the artifact was made from.
        progress: receives messages and counts.

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
    return checkout


def reference_name(checkout: Checkout) -> str:
    """Return the name of a checkpoint in reports."""
    revision = f"@{checkout.revision}" if checkout.revision and checkout.revision not in checkout.source else ""
    return f"{checkout.source}{revision}"


def verify_with(
    artifact: str | Path,
    witness: Witness,
    *,
    name: str,
    texts: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> VerificationReport:
    """Compare an artifact with a loaded reference; write nothing.

    Args:
        artifact: the artifact's folder.
        witness: the reference.
        name: name of the reference in the report.
        texts: texts of the user.
        variant: the only variant to compare; None compares all that run on this machine.
        progress: receives messages and counts. Default: nothing is reported.

    Raises:
        ArtifactError: the artifact cannot be read, or its canary fails.
        CheckpointError: the reference refuses every text.
    """
    opened = Artifact.open(artifact)
    variants, complete = choose_variants(opened, variant)
    if opened.manifest.strips_texts:
        note = "blanks around texts are removed, as sentence-transformers 5 does"
        witness = replace(witness, strips=True, notes=(*witness.notes, note))
    cases, tokens = make_cases(witness, texts)
    question = ask_reference(witness, cases, progress)
    if not question.cases:
        raise CheckpointError(f"{witness.method} refuses every text of {name}: {question.refused[0].reason}")
    settings = list_settings(witness, tokens)
    gap = find_gap(opened.manifest, witness)
    compared = [compare_variant(opened, chosen, question, gap, progress) for chosen in variants]
    kept = compared[0].kept  # every variant has the same tokenizer file
    cases = list(compress(question.cases, kept))
    set_aside = [case for case, keep in zip(question.cases, kept, strict=True) if not keep]
    differences = Differences(
        ids=compared[0].ids_differ,
        values=tuple(any(flags) for flags in zip(*(one.values_differ for one in compared), strict=True)),
        shapes=next((one.shapes for one in compared if one.shapes), ""),
    )
    failed = [one or other for one, other in zip(differences.ids, differences.values, strict=True)]
    verdicts = {compared[0].ids.verdict, *(one.result.verdict for one in compared)}
    follows = opened.manifest.tokenizer_like
    ran = f"transformers {witness.tools['transformers']}" + (f" (the artifact follows {follows})" if follows else "")
    return VerificationReport(
        model=opened.manifest.card.name,
        artifact=str(opened.path),
        digest=opened.digest,
        reference=name,
        method=witness.method,
        notes=witness.notes,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tools={**versions("longbow-fletcher", "onnxruntime", "tokenizers", "numpy"), **witness.tools},
        complete=complete,
        tokenizer=compared[0].ids,
        variants=tuple(one.result for one in compared),
        settings=(
            *judge_settings(settings, cases, failed),
            *([gap.describe(set_aside)] if gap is not None and set_aside else []),
        ),
        refused=question.refused,
        likely=find_cause(cases, differences, settings, ran, explain_versions(follows, witness.tools["transformers"])),
        verdict="failed" if "failed" in verdicts else "passed",
    )


def _check_origin(digests: Mapping[str, str], recorded: Mapping[str, str], source: str) -> None:
    changed = sorted(name for name, digest in recorded.items() if digests.get(name, digest) != digest)
    if changed:
        raise ChecksumError(
            f"{source} differs from the checkpoint that the artifact was made from: {', '.join(changed)} changed. "
            "Convert it again, or name the checkpoint to compare with by --reference"
        )
