"""Verification of models with one vector per text: every length, ordinary texts with each prompt, and the user's texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from fletcher.model_zoo.card import RAW, ModelCard
from fletcher.model_zoo.progress import Progress
from fletcher.runtime import Encoder, Encodings

from ..reference.vectors import Reference
from ..texts import EDGES, SENTENCES, texts_for
from .comparison import Question, Run
from .report import VariantResult
from .verdicts import Probe, VariantVectors, compare_vectors

__all__ = ["ask_for_vectors"]


def ask_for_vectors(reference: Reference, card: ModelCard, texts: Sequence[str], progress: Progress) -> Question:
    """Compute the reference's vectors.

    Args:
        reference: the model.
        card: card of the artifact.
        texts: the user's texts, compared besides the built-in ones.
        progress: receives messages and counts.
    """
    probes = _probes(card, reference.count_tokens, texts)
    rows = [row for kind, group in _by_input_type(probes) for row in reference.tokenize(group, kind)]
    with progress.count("reference", total=len(rows), units=("texts", "tokens")) as counter:
        expected = reference.embed(rows, each=lambda tokens: counter.advance(1, tokens))

    def tokenize(encoder: Encoder) -> Encodings:
        return Encodings.concatenate([encoder.tokenize(group, kind) for kind, group in _by_input_type(probes)])

    def verdict(run: Run) -> VariantResult:
        vectors = VariantVectors(run.variant, run.provider, run.lengths, np.stack(run.alone), np.stack(run.batched))
        return compare_vectors(vectors, expected, probes, card)

    return Question(probes, rows, tokenize, None, verdict, reference.tools)


def _probes(card: ModelCard, count_tokens: Callable[[str], int], texts: Sequence[str]) -> list[Probe]:
    """Return every length without a prompt, ordinary texts with each prompt, and the user's texts as documents."""
    probes = [Probe(text, RAW) for text in texts_for(count_tokens, card.max_tokens)]
    probes += [Probe(text, kind) for kind in card.prompts for text in (*EDGES, *SENTENCES)]
    return probes + [Probe(text, "document") for text in texts]


def _by_input_type(probes: Sequence[Probe]) -> list[tuple[str, list[str]]]:
    """Return consecutive probes with the same input type as groups, in order."""
    runs = groupby(probes, key=lambda probe: probe.input_type)
    return [(kind, [probe.text for probe in group]) for kind, group in runs]
