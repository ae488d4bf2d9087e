"""Runs of an artifact's variants on the same texts, and the report made from them, for models of every kind.

`vectors.py` and `heads.py` prepare the texts and compare the results.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import Progress
from fletcher.runtime import Encoder, Encodings
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.selection import default_provider, runnable_targets

from ..checkpoint.tokenizer_version import explain_versions
from .report import TokenizerResult, VariantResult, VerificationReport
from .verdicts import Probe, compare_ids

__all__ = ["Question", "Results", "Run", "ask_variants", "build_report", "choose_variants", "versions"]

#: Result of a model for each text: (dimension,), or (tokens, dimension).
Results = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Run:
    """Results of a variant.

    Attributes:
        variant: the variant.
        provider: execution provider that ran it.
        lengths: tokens of each text, (n,).
        alone: result of each text in a batch of its own.
        batched: result of each text in a batch with the others.
    """

    variant: Variant
    provider: str
    lengths: NDArray[np.int64]
    alone: Results
    batched: Results


@dataclass(frozen=True, slots=True)
class Question:
    """Texts for all variants, and their comparison with the reference.

    Attributes:
        probes: the texts.
        rows: HuggingFace's token ids of each text.
        tokenize: returns the artifact's token ids of all texts.
        instead: returns the token ids to run if the artifact's differ; None runs the artifact's.
        judge: compares the results of a variant with the reference's.
        tools: versions of the packages that computed the reference.
    """

    probes: Sequence[Probe]
    rows: Sequence[Sequence[int]]
    tokenize: Callable[[Encoder], Encodings]
    instead: Callable[[], Encodings] | None
    judge: Callable[[Run], VariantResult]
    tools: Mapping[str, str]


def ask_variants(
    artifact: Artifact, variants: Sequence[Variant], question: Question, progress: Progress
) -> tuple[list[TokenizerResult], list[VariantResult]]:
    """Run each variant on the texts, and compare its results with the reference's.

    Args:
        artifact: artifact of the variants.
        variants: variants to run.
        question: texts and comparison.
        progress: receives messages and counts.

    Returns:
        The results on token ids, and those on the model's output, by variant.
    """
    ids, results = [], []
    for chosen in variants:
        with Encoder.load(artifact.path, variant=chosen.name, provider=default_provider(chosen.target)) as encoder:
            encodings = question.tokenize(encoder)
            ids.append(compare_ids(encodings, question.rows, question.probes))
            if ids[-1].equal < ids[-1].compared and question.instead is not None:
                encodings = question.instead()
            alone: list[NDArray[np.float32]] = []
            with progress.count(chosen.name, total=len(encodings), units=("texts", "tokens")) as counter:
                for index, tokens in enumerate(encodings.lengths.tolist()):
                    one = encodings.select(np.array([index]))
                    alone += _split(encoder, one, encoder.run(one))
                    counter.advance(1, tokens)
            batched = _split(encoder, encodings, encoder.compute(encodings))
            results.append(question.judge(Run(chosen, encoder.info.provider, encodings.lengths, alone, batched)))
    return ids, results


def _split(encoder: Encoder, encodings: Encodings, values: NDArray[np.float32]) -> Results:
    """Return the results of a batch split by texts."""
    return np.split(values, encodings.offsets[1:-1]) if encoder.card.output == "token_vectors" else list(values)


def choose_variants(artifact: Artifact, variant: str | None) -> tuple[tuple[Variant, ...], bool]:
    """Return the variants to compare, and whether these are all that run on this machine.

    Args:
        artifact: artifact of the variants.
        variant: the only one to compare; None compares all that run on this machine.

    Raises:
        ArtifactError: the artifact lacks the variant, or has none that runs on this machine.
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
    """Return the report of a verification.

    Args:
        artifact: the artifact.
        reference: name of the reference in the report.
        tools: versions of the packages that computed the reference.
        complete: whether every variant was compared.
        ids: results on token ids, by variant.
        results: results on the model's output, by variant.
    """
    differ = ids[0].verdict == "failed" and "transformers" in tools
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
        advice=explain_versions(artifact.manifest.tokenizer_like, tools["transformers"]) if differ else "",
    )


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that are installed; onnxruntime has other names for some kinds of hardware."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
