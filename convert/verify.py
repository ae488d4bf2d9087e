"""Verification: the artefact against the HuggingFace model in float32, on the same texts.

Three questions, in this order: are the token ids equal, are the vectors, and does a text's vector stay what it is in a batch?
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo import fetch
from fletcher.model_zoo.card import RAW, Accuracy, ModelCard
from fletcher.quantize.metrics import compare, similarities
from fletcher.runtime import Encoder, Encodings
from fletcher.runtime.artifact import Artifact
from fletcher.runtime.artifact_writing import stamp
from fletcher.runtime.errors import ArtifactError, ChecksumError
from fletcher.runtime.manifest import Variant
from fletcher.runtime.providers import runnable_targets
from fletcher.runtime.reporter import Reporter

from .reference import Reference
from .steps import Steps
from .texts import EDGES, SENTENCES, texts_for
from .verification import TextResult, TokenizerResult, VariantResult, VerificationReport, excerpt

__all__ = [
    "Probe",
    "build_report",
    "choose_variants",
    "compare_ids",
    "fetch_reference",
    "judge",
    "verify",
    "verify_with",
    "versions",
]

#: What a precision must reach where the card does not say; others have the tolerance that their variant carries.
DEFAULT_ACCURACY: Mapping[str, Accuracy] = {"fp32": Accuracy(min_cosine=0.999999, max_abs=1e-5)}

#: How far apart an element of a text's vector alone and in a batch may be: float32's own rounding, in another order …
BATCH_TOLERANCE_FP32 = 1e-6

#: … and for reduced precisions, where that can turn one rounding to the other side. A scale shared by the batch, which
#: this is to catch, moves elements by 1e-2 (batch cosine .978 was measured for such INT8).
BATCH_TOLERANCE_REDUCED = 2e-3

#: Points of the plot of pairwise similarities.
PLOTTED_PAIRS = 1200


@dataclass(frozen=True, slots=True)
class Probe:
    """A text to compare.

    Attributes:
        text: without its prompt.
        input_type: whose prompt it gets.
    """

    text: str
    input_type: str


def verify(
    path: str | Path,
    *,
    reference: str | None = None,
    texts: Sequence[str] | None = None,
    variant: str | None = None,
    reporter: Reporter,
) -> VerificationReport:
    """Compares an artefact with the HuggingFace model, and stamps its manifest if it passed whole.

    A failure is told by the report's verdict; `VerificationReport.raise_if_failed` turns it into an error.

    Args:
        path: the artefact's folder.
        reference: SOURCE of the checkpoint to compare with; None is the one that the artefact was made from.
        texts: compared besides the built-in ones.
        variant: the only variant to compare; None compares all that run on this machine, and only then a stamp is written.
        reporter: is told what goes on.

    Raises:
        ArtifactError: the artefact cannot be read, or its canary fails.
        SourceError: the reference cannot be fetched.
        ChecksumError: the reference is no longer the checkpoint that the artefact was made from.
        CheckpointError: transformers cannot load the reference.
        MissingPackageError: torch or transformers is not installed.
    """
    artifact = Artifact.open(path)
    folder, name = fetch_reference(artifact, reference, reporter)
    report = verify_with(
        path,
        Reference.load(folder, artifact.manifest.card),
        name=name,
        texts=texts,
        variant=variant,
        reporter=reporter,
    )
    if report.verdict == "passed" and report.complete:
        stamp(path, report.stamp, digest=report.digest)
    return report


def fetch_reference(artifact: Artifact, source: str | None, reporter: Reporter) -> tuple[Path, str]:
    """Checks the artefact's files, then fetches the checkpoint to compare with.

    Args:
        artifact: what is verified.
        source: SOURCE of the checkpoint; None is the one that the artefact was made from.
        reporter: is told what goes on.

    Returns:
        Its folder, and what reports call it.

    Raises:
        ArtifactError: the artefact is damaged.
        SourceError: the checkpoint cannot be fetched.
        ChecksumError: it is no longer the checkpoint that the artefact was made from.
    """
    artifact.check_files()
    origin = artifact.manifest.origin
    with Steps(reporter) as steps:
        checkout = fetch(source or origin.source, progress=steps)
    if source is None:
        _check_origin(checkout.sha256, origin.sha256, origin.source)
    revision = f"@{checkout.revision}" if checkout.revision and checkout.revision not in checkout.source else ""
    return checkout.folder, f"{checkout.source}{revision}"


def verify_with(
    path: str | Path,
    reference: Reference,
    *,
    name: str,
    texts: Sequence[str] | None = None,
    variant: str | None = None,
    reporter: Reporter,
) -> VerificationReport:
    """Compares an artefact with a reference that was loaded; writes nothing.

    Args:
        path: the artefact's folder.
        reference: the model.
        name: what the report calls it.
        texts: compared besides the built-in ones.
        variant: the only variant to compare; None compares all that run on this machine.
        reporter: is told what goes on.
    """
    artifact = Artifact.open(path)
    card = artifact.manifest.card
    variants, complete = choose_variants(artifact, variant)
    probes = _probes(card, reference.count_tokens, texts or ())
    rows = [row for kind, group in _by_input_type(probes) for row in reference.tokenize(group, kind)]
    with reporter.progress("reference", total=len(rows), units=("texts", "tokens")) as progress:
        expected = reference.embed(rows, each=lambda tokens: progress.advance(1, tokens))

    ids, results = [], []
    for chosen in variants:
        with Encoder.load(path, variant=chosen.name, provider="mlas") as encoder:
            parts = [encoder.tokenize(group, kind) for kind, group in _by_input_type(probes)]
            encodings = Encodings.concatenate(parts)
            ids.append(compare_ids(encodings, rows, probes))
            with reporter.progress(chosen.name, total=len(rows), units=("texts", "tokens")) as progress:
                alone = _run_alone(encoder, encodings, lambda tokens: progress.advance(1, tokens))
            batched = encoder.compute(encodings)
            results.append(judge(chosen, encoder.provider, card, probes, encodings.lengths, alone, batched, expected))
    return build_report(artifact, name, reference.tools, complete, ids, results)


def choose_variants(artifact: Artifact, variant: str | None) -> tuple[tuple[Variant, ...], bool]:
    """The variants to compare, and whether they are all that run on this machine.

    Args:
        artifact: whose.
        variant: the only one to compare; None compares all that run on this machine.

    Raises:
        ArtifactError: it lacks the variant, or has none that runs on this machine.
    """
    runnable = tuple(kind for kind in artifact.manifest.variants if kind.target in runnable_targets())
    variants = runnable if variant is None else (artifact.variant(variant),)
    if not variants:
        names = ", ".join(kind.name for kind in artifact.manifest.variants)
        raise ArtifactError(
            f"{artifact.path} has {names}, none of which runs on this machine: export it for the target cpu, too"
        )
    return variants, variants == runnable


def build_report(
    artifact: Artifact,
    reference: str,
    tools: Mapping[str, str],
    complete: bool,
    ids: Sequence[TokenizerResult],
    results: Sequence[VariantResult],
) -> VerificationReport:
    """What was found of an artefact.

    Args:
        artifact: what was compared.
        reference: what the report calls the reference.
        tools: versions of what computed the reference, by package.
        complete: whether every variant was compared.
        ids: token ids, by variant.
        results: same, of the vectors or what else the model gives.
    """
    verdicts = {*(result.verdict for result in ids), *(result.verdict for result in results)}
    return VerificationReport(
        model=artifact.manifest.card.name,
        artifact=str(artifact.path),
        digest=artifact.digest,
        reference=reference,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tools={**versions("longbow-fletcher", "onnxruntime", "tokenizers", "numpy"), **tools},
        complete=complete,
        tokenizer=ids[0],  # every variant has the same tokenizer file
        variants=tuple(results),
        verdict="failed" if "failed" in verdicts else "passed",
    )


def compare_ids(encodings: Encodings, rows: Sequence[Sequence[int]], probes: Sequence[Probe]) -> TokenizerResult:
    """Compares token ids, text by text.

    Args:
        encodings: the artefact's.
        rows: HuggingFace's.
        probes: the texts, in the same order.
    """
    equal, reason = 0, ""
    for index, (row, probe) in enumerate(zip(rows, probes, strict=True)):
        ours = encodings.ids[encodings.offsets[index] : encodings.offsets[index + 1]].tolist()
        if ours == list(row):
            equal += 1
        elif not reason:
            place = next((i for i, pair in enumerate(zip(ours, row, strict=False)) if pair[0] != pair[1]), None)
            where = (
                f"{len(ours)} ids instead of {len(row)}"
                if place is None
                else (f"id {ours[place]} instead of {row[place]} at place {place}")
            )
            reason = f"the tokenizer gives {where} for the text {excerpt(probe.text)!r} ({probe.input_type})"
    truncated = int(np.count_nonzero(encodings.dropped))
    return TokenizerResult(compared=len(rows), equal=equal, truncated=truncated, reason=reason)


def judge(
    variant: Variant,
    provider: str,
    card: ModelCard,
    probes: Sequence[Probe],
    lengths: NDArray[np.int64],
    alone: NDArray[np.float32],
    batched: NDArray[np.float32],
    expected: NDArray[np.float32],
    *,
    batch_tolerance: float | None = None,
) -> VariantResult:
    """Compares a variant's vectors with the reference's, and says what is out of tolerance.

    Args:
        variant: the graph.
        provider: what it ran on.
        card: may say what each precision must reach.
        probes: the texts.
        lengths: their tokens, (n,).
        alone: vectors of each text run alone, (n, dimension).
        batched: vectors of all texts together, (n, dimension).
        expected: the reference's, (n, dimension).
        batch_tolerance: how far from itself in a batch an element may be; None is what is right for unit vectors.
    """
    tolerance = card.accuracy.get(variant.precision) or DEFAULT_ACCURACY.get(variant.precision, variant.tolerance)
    if batch_tolerance is None:
        batch_tolerance = BATCH_TOLERANCE_FP32 if variant.precision == "fp32" else BATCH_TOLERANCE_REDUCED
    found, in_batch = compare(batched, expected), compare(batched, alone)
    results = tuple(
        TextResult(
            text=excerpt(probe.text), input_type=probe.input_type, tokens=tokens, cosine=cosine, max_abs=difference
        )
        for probe, tokens, cosine, difference in zip(
            probes, lengths.tolist(), found.cosines.tolist(), found.differences.tolist(), strict=True
        )
    )
    reasons = []
    # Written so that NaN would fail: "not at least", never "less than".
    if not found.cosine_min >= tolerance.min_cosine:
        reasons.append(f"cosine {found.cosine_min:.7f}, at least {tolerance.min_cosine} wanted")
    if tolerance.max_abs is not None and not found.max_abs <= tolerance.max_abs:
        largest = results[int(np.argmax(found.differences))]
        reasons.append(
            f"max abs difference {found.max_abs:.2e} (text {largest.text!r}), at most {tolerance.max_abs:.0e} wanted"
        )
    if not in_batch.max_abs <= batch_tolerance:
        changed = results[int(np.argmax(in_batch.differences))]
        reasons.append(
            f"alone and in a batch {in_batch.max_abs:.2e} apart (text {changed.text!r}), "
            f"at most {batch_tolerance:.0e} wanted"
        )
    ours, theirs = similarities(batched, PLOTTED_PAIRS), similarities(expected, PLOTTED_PAIRS)
    return VariantResult(
        name=variant.name,
        precision=variant.precision,
        provider=provider,
        tolerance=tolerance,
        batch_tolerance=batch_tolerance,
        cosine_mean=found.cosine_mean,
        cosine_p1=found.cosine_p1,
        cosine_min=found.cosine_min,
        max_abs=found.max_abs,
        batch_max_abs=in_batch.max_abs,
        neighbours=found.neighbours,
        spearman=found.spearman,
        worst=results[found.worst],
        reasons=tuple(reasons),
        texts=results,
        pairs=tuple(zip(ours.tolist(), theirs.tolist(), strict=True)),
    )


def _probes(card: ModelCard, count_tokens: Callable[[str], int], texts: Sequence[str]) -> list[Probe]:
    """Every length without a prompt, so that lengths are exact; then ordinary texts with each prompt; then the user's."""
    probes = [Probe(text, RAW) for text in texts_for(count_tokens, card.max_tokens)]
    probes += [Probe(text, kind) for kind in card.prompts for text in (*EDGES, *SENTENCES)]
    return probes + [Probe(text, "document") for text in texts]


def _by_input_type(probes: Sequence[Probe]) -> list[tuple[str, list[str]]]:
    """Runs of probes with the same input type, in order."""
    runs = groupby(probes, key=lambda probe: probe.input_type)
    return [(kind, [probe.text for probe in group]) for kind, group in runs]


def _run_alone(encoder: Encoder, encodings: Encodings, each: Callable[[int], None]) -> NDArray[np.float32]:
    """Each text in a batch of its own: float32, (n, dimension)."""
    vectors = np.empty((len(encodings), encoder.dimension), np.float32)
    for index, tokens in enumerate(encodings.lengths.tolist()):
        vectors[index] = encoder.run(encodings.select(np.array([index])))[0]
        each(tokens)
    return vectors


def _check_origin(found: Mapping[str, str], recorded: Mapping[str, str], source: str) -> None:
    changed = sorted(name for name, digest in recorded.items() if found.get(name, digest) != digest)
    if changed:
        raise ChecksumError(
            f"{source} is no longer the checkpoint that the artefact was made from: {', '.join(changed)} changed. "
            "Convert it again, or name the checkpoint to compare with by --reference"
        )


def versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed: onnxruntime has a flavour for each kind of hardware."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
