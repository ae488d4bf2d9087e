"""Canary of an artifact: the card's published one, or one that the artifact's own graph computes; and the check of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo import ModelCard
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.canary import Canary, CanaryResult, encode_canary, read_canary
from fletcher.runtime.errors import CanaryError, CheckpointError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.mlas.mapped import LARGE
from fletcher.runtime.providers.mlas.provider import MLAS
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import default_provider, find_provider, runnable_targets
from fletcher.runtime.session.session import Session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.workers.pool import Workers

from ..texts import EXTREMES, SENTENCES
from .variants import GraphWriter

__all__ = ["CanaryCheck", "check_canaries", "own_canary", "own_texts", "with_tokens"]

#: Of the built-in sentences, every eighth is in an own canary: English, German, Arabic, a command. It is run twice here, and
#: at every load.
CANARY_STEP = 8

#: Origin of an own canary's vectors.
ORIGIN = "self-made: this artifact's cpu-fp32"


@dataclasses.dataclass(frozen=True, slots=True)
class CanaryCheck:
    """Result of a variant's run on the canary.

    Attributes:
        variant: name of the variant.
        result: its comparison with the reference.
        batch_max_abs: largest difference of an element between a text alone and all texts together.
    """

    variant: str
    result: CanaryResult
    batch_max_abs: float


def check_canaries(artifact: Artifact, session: Session | None) -> list[CanaryCheck]:
    """Load every variant that this machine runs, and compare its canary.

    Args:
        artifact: the artifact.
        session: session of the written `cpu-fp32`, if it is open already; it is closed here.

    Raises:
        CanaryError: a variant does not pass.
    """
    results = []
    canary, card, targets = read_canary(artifact.canary_file), artifact.manifest.card, runnable_targets()
    checked: set[str] = set()
    for variant in artifact.manifest.variants:
        if variant.target not in targets or variant.name in checked:
            continue
        provider = find_provider(default_provider(variant.target))
        checked.update(other.name for other in provider.variants(artifact, variant))
        is_open = (variant.target, variant.precision) == ("cpu", "fp32")
        opened = session if is_open and session is not None else _open_for_check(artifact, variant)
        workers = Workers(opened, variant.outputs, name=card.name, count=1, token_budget=card.max_tokens)
        with closing(workers):
            together = workers.compute(canary.encodings)
            rows = [canary.encodings.select(np.array([row])) for row in range(len(canary.encodings))]
            apart = float(np.abs(together - np.concatenate([workers.compute(row) for row in rows])).max(initial=0.0))
            values: dict[str | None, NDArray[np.float32]] = {None: together}
            values |= {name: workers.compute(canary.encodings, name) for name in canary.further}
            result = canary.judge_all(values.__getitem__, card.output, variant.tolerance)
        if not result.passed:
            raise CanaryError(
                f"{card.name} ({variant.name} on {opened.provider}) does not reproduce its canary: {result.reason}. It "
                "would serve wrong vectors, so it was removed"
            )
        results.append(CanaryCheck(variant.name, result, apart))
    return results


def _open_for_check(artifact: Artifact, variant: Variant) -> Session:
    """Open a variant on its target's default provider, on all cores; large weights stay in their file where they can."""
    provider, threads = default_provider(variant.target), len(this_machine().processors)
    if provider == MLAS.name and (artifact.path / variant.weights).stat().st_size >= LARGE:
        return MlasSession(artifact.path / variant.file, threads=threads, mapped=True)
    return open_session(artifact, variant, provider=provider, threads=threads)


def own_texts(tokenizer: Tokenizer, card: ModelCard, source: str, *, half: bool = False) -> Canary:
    """Return a canary without its vectors: a few texts and their token ids.

    Args:
        tokenizer: tokenizer of the artifact.
        card: card of the model.
        source: name of the checkpoint in messages.
        half: whether a variant computes in a half type, so that the texts with the largest activations belong to the canary.
    """
    prompted = (prompt + SENTENCES[0] for prompt in card.prompts.values())
    chosen = ["", *SENTENCES[::CANARY_STEP], *prompted, *(EXTREMES if half else ())]
    texts = with_tokens(tokenizer, chosen, source)
    queries = (*texts[1:], texts[0]) if card.output == "scores" else ()
    encodings = encode_canary(tokenizer, card, texts, queries)
    return Canary(texts, encodings, np.zeros((0, 0), np.float32), ORIGIN, queries)


def own_canary(session: Session | None, writer: GraphWriter, texts: Canary) -> Canary:
    """Add the fp32 graph's vectors of the texts, one at a time. They show later damage, not that the graph is right."""
    encodings, outputs = texts.encodings, writer.token_outputs
    rows = [encodings.select(np.array([row])) for row in range(len(encodings))]
    if session is None:
        vectors = writer.reference(encodings)
        further = {name: writer.reference(encodings, name) for name in outputs}
    else:
        vectors = np.concatenate([session.run(row) for row in rows])
        further = {name: np.concatenate([session.run(row, name) for row in rows]) for name in outputs}
    return dataclasses.replace(texts, vectors=vectors, further=further)


def with_tokens(tokenizer: Tokenizer, texts: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the texts that have a token, each once: without special tokens, the empty text has neither token nor vector.

    Raises:
        CheckpointError: no text has a token.
    """
    nonempty = tuple(text for text in dict.fromkeys(texts) if len(tokenizer.encode([text]).ids))
    if not nonempty:
        raise CheckpointError(f"the tokenizer of {source} makes no token of any text")
    return nonempty
