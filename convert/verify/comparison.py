"""Every variant of an artifact on the same texts: what a verification does, whatever the model gives.

`verify_vectors.py` and `verify_heads.py` say what is asked and how it is judged.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encoder, Encodings
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.selection import default_provider, runnable_targets

from .report import TokenizerResult, VariantResult, VerificationReport
from .verdicts import Probe, compare_ids

__all__ = ["Question", "Results", "Run", "ask_variants", "build_report", "choose_variants", "versions"]

#: What a model gives for each text: (dimension,), or (tokens, dimension).
Results = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Run:
    """What a variant gave.

    Attributes:
        variant: the graph.
        provider: what it ran on.
        lengths: tokens of each text, (n,).
        alone: of each text in a batch of its own.
        batched: of each text among all others.
    """

    variant: Variant
    provider: str
    lengths: NDArray[np.int64]
    alone: Results
    batched: Results


@dataclass(frozen=True, slots=True)
class Question:
    """What every variant is asked, and what the reference said.

    Attributes:
        probes: the texts.
        rows: HuggingFace's token ids of each.
        tokenize: the artifact's, of all.
        instead: what to run if they differ; None runs them all the same.
        judge: the verdict on what a variant gave.
        tools: versions of what computed the reference, by package.
    """

    probes: Sequence[Probe]
    rows: Sequence[Sequence[int]]
    tokenize: Callable[[Encoder], Encodings]
    instead: Callable[[], Encodings] | None
    judge: Callable[[Run], VariantResult]
    tools: Mapping[str, str]


def ask_variants(
    artifact: Artifact, variants: Sequence[Variant], question: Question, reporter: Reporter
) -> tuple[list[TokenizerResult], list[VariantResult]]:
    """Asks each variant.

    Args:
        artifact: whose.
        variants: which.
        question: what.
        reporter: is told what goes on.

    Returns:
        The verdicts on token ids and on what the model gives, by variant.
    """
    ids, results = [], []
    for chosen in variants:
        with Encoder.load(artifact.path, variant=chosen.name, provider=default_provider(chosen.target)) as encoder:
            encodings = question.tokenize(encoder)
            ids.append(compare_ids(encodings, question.rows, question.probes))
            if ids[-1].equal < ids[-1].compared and question.instead is not None:
                encodings = question.instead()
            alone: list[NDArray[np.float32]] = []
            with reporter.progress(chosen.name, total=len(encodings), units=("texts", "tokens")) as progress:
                for index, tokens in enumerate(encodings.lengths.tolist()):
                    one = encodings.select(np.array([index]))
                    alone += _split(encoder, one, encoder.run(one))
                    progress.advance(1, tokens)
            batched = _split(encoder, encodings, encoder.compute(encodings))
            results.append(question.judge(Run(chosen, encoder.info.provider, encodings.lengths, alone, batched)))
    return ids, results


def _split(encoder: Encoder, encodings: Encodings, found: NDArray[np.float32]) -> Results:
    """What was computed together, by texts."""
    return np.split(found, encodings.offsets[1:-1]) if encoder.card.output == "token_vectors" else list(found)


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
    """What was found of an artifact.

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


def versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed: onnxruntime has a flavour for each kind of hardware."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
