"""Runs of an artifact's variants on the texts that the reference answered, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import compress

import msgspec
import numpy as np

from fletcher.model_zoo.progress import Progress
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.selection import default_provider, runnable_targets
from fletcher.runtime.space.bounds import BATCH_LOGITS, UNBOUNDED

from ..reference.witness import Answer, Witness
from .case import Case
from .further import compare_further
from .outputs import TokenRow, Values, compute_alone, compute_together, tokenize
from .providers import measure_providers
from .report import RefusedText, TokenizerResult, VariantResult, excerpt
from .tables import make_tables
from .texts import QUERIES_EACH
from .verdicts import VariantVectors, compare_ids, compare_vectors, out_of_tolerance, tolerance_of
from .versions import VersionGap

__all__ = ["Comparison", "Question", "ask_reference", "choose_variants", "compare_variant", "versions"]


@dataclass(frozen=True, slots=True)
class Question:
    """Texts that the reference answered.

    Attributes:
        cases: the texts.
        answers: the reference's token ids and results, in the same order.
        refused: texts that the reference refuses.
    """

    cases: tuple[Case, ...]
    answers: tuple[Answer, ...]
    refused: tuple[RefusedText, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of one variant.

    Attributes:
        ids: summary of the token ids.
        result: comparison of the results.
        ids_differ: for each compared text, whether its token ids differ.
        values_differ: for each compared text, whether its result differs although its token ids are equal.
        shapes: shapes of the first such result that has another shape than the reference's, in words; empty if none has.
        kept: for each text of the question, whether it was compared; not if versions of transformers read it differently.
    """

    ids: TokenizerResult
    result: VariantResult
    ids_differ: tuple[bool, ...]
    values_differ: tuple[bool, ...]
    shapes: str
    kept: tuple[bool, ...]


def ask_reference(witness: Witness, cases: Sequence[Case], progress: Progress) -> Question:
    """Compute the reference's answers; set aside the texts that it refuses.

    Args:
        witness: the reference.
        cases: the texts.
        progress: receives messages and counts.
    """
    answers = []
    with progress.count("reference", total=len(cases), units=("texts", "tokens")) as counter, witness.threads():
        for case in cases:
            answer = witness.answer(case.text, case.input_type, case.query, ids_only=case.ids_only)
            answers.append(answer)
            counter.advance(1, 0 if answer.tokens is None else len(answer.tokens.ids))
    bad = {index for index, answer in enumerate(answers) if answer.refused}
    refused = tuple(
        RefusedText(text=excerpt(cases[index].text), input_type=cases[index].input_type, reason=answers[index].refused)
        for index in sorted(bad)
    )
    if witness.card.output == "scores":
        bad |= {index for group in _groups(cases) if bad & set(group) for index in group}
    kept = [index for index in range(len(cases)) if index not in bad]
    return Question(tuple(cases[index] for index in kept), tuple(answers[index] for index in kept), refused)


def compare_variant(
    artifact: Artifact, variant: Variant, question: Question, gap: VersionGap | None, progress: Progress
) -> Comparison:
    """Run a variant on the texts through the methods that its users call, and compare it with the reference.

    Args:
        artifact: artifact of the variant.
        variant: the variant.
        question: texts, and the reference's answers.
        gap: gap between the version of transformers that the artifact follows and the reference's, if there is one.
        progress: receives messages and counts.
    """
    with Encoder.load(artifact.path, variant=variant.name, provider=default_provider(variant.target)) as encoder:
        rows = [tokenize(encoder, case) for case in question.cases]
        kept = _explain(question, rows, gap, grouped=encoder.card.output == "scores")
        cases, answers = list(compress(question.cases, kept)), list(compress(question.answers, kept))
        rows = list(compress(rows, kept))
        ids = compare_ids(rows, [answer.tokens for answer in answers if answer.tokens is not None], cases)
        valued = [index for index, answer in enumerate(answers) if answer.values is not None]
        alone, together = _run(encoder, [cases[i] for i in valued], [rows[i] for i in valued], progress)
        provider, card = encoder.info.provider, encoder.card
        answered = [found for answer in answers if (found := answer.further) is not None]
        further = (
            compare_further(encoder, [cases[i] for i in valued], answered, tolerance_of(card, variant))
            if encoder.info.token_dimension
            else ()
        )
    expected = [values for answer in answers if (values := answer.values) is not None]
    alone_table, together_table, right, first = make_tables(card.output, alone, together, expected)
    lengths = np.array([len(rows[valued[index]].ids) for index in first], np.int64)
    loose = BATCH_LOGITS if variant.precision == "fp32" and card.output in UNBOUNDED else None
    vectors = VariantVectors(variant, provider, lengths, alone_table, together_table)
    result = compare_vectors(vectors, right, [cases[valued[index]] for index in first], card, batch_tolerance=loose)
    reasons = (*result.reasons, *(reason for one in further for reason in one.reasons))
    result = msgspec.structs.replace(
        result, providers_max_abs=measure_providers(artifact, variant), further=further, reasons=reasons
    )
    values_differ = [False] * len(cases)
    group = QUERIES_EACH if card.output == "scores" else 1
    for start, bad in zip(first.tolist(), out_of_tolerance(result), strict=True):
        for index in valued[start : start + group]:
            values_differ[index] = bad and not ids.differ[index]
    shapes = next(
        (
            f"results of shape {ours.shape} instead of {theirs.shape}"
            for index, ours, theirs in zip(valued, together, expected, strict=True)
            if ours.shape != theirs.shape and not ids.differ[index]
        ),
        "",
    )
    return Comparison(ids.summary, result, ids.differ, tuple(values_differ), shapes, tuple(kept))


def _explain(question: Question, rows: Sequence[TokenRow], gap: VersionGap | None, *, grouped: bool) -> list[bool]:
    """Return for each text whether it is compared: not if versions of transformers explain that its token ids differ."""
    if gap is None:
        return [True] * len(rows)
    kept = [
        answer.tokens is None or answer.tokens.ids == row.ids or not gap.explains(case, row)
        for case, answer, row in zip(question.cases, question.answers, rows, strict=True)
    ]
    if grouped:
        for group in _groups(question.cases):
            for index in group if not all(kept[place] for place in group) else ():
                kept[index] = False
    return kept


def _groups(cases: Sequence[Case]) -> list[list[int]]:
    """Return the texts of a reranker whose scores are compared together: a document's pairs."""
    valued = [index for index, case in enumerate(cases) if not case.ids_only]
    return [valued[start : start + QUERIES_EACH] for start in range(0, len(valued), QUERIES_EACH)]


def _run(
    encoder: Encoder, cases: Sequence[Case], rows: Sequence[TokenRow], progress: Progress
) -> tuple[list[Values], list[Values]]:
    """Return the results of the texts alone and in batches; those of refused texts are empty."""
    accepted = [index for index, row in enumerate(rows) if not row.refused]
    alone: list[Values] = [np.zeros(0, np.float32)] * len(cases)
    together = list(alone)
    with progress.count(encoder.variant.name, total=len(cases), units=("texts", "tokens")) as counter:
        for index in accepted:
            alone[index] = compute_alone(encoder, cases[index])
            counter.advance(1, len(rows[index].ids))
        for index, values in zip(accepted, compute_together(encoder, [cases[i] for i in accepted]), strict=True):
            together[index] = values
    return alone, together


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


def versions(*packages: str) -> Mapping[str, str]:
    """Return the versions of the packages that are installed; onnxruntime has other names for some kinds of hardware."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
