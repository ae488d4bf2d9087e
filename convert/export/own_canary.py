"""Canary of an artifact: the card's published one, or one that the artifact's own graph computes; and the check of both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.model_zoo import ModelCard
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.canary import Canary, CanaryResult, encode_canary, read_canary
from fletcher.runtime.errors import CanaryError, CheckpointError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.mlas.provider import MLAS
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import default_provider, find_provider, runnable_targets
from fletcher.runtime.session.feeds import make_feeds
from fletcher.runtime.session.session import Session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.workers.pool import Workers

from ..architecture import Architecture
from ..texts import EXTREMES, SENTENCES
from .pieces import LARGE, compute_in_pieces, group_rows
from .variants import GraphWriter

__all__ = ["CanaryCheck", "check_canaries", "own_canary", "own_texts", "with_tokens"]

#: Of the built-in sentences, every eighth is in an own canary: English, German, Arabic, a command. It is run twice here, and
#: at every load.
CANARY_STEP = 8

#: Origin of an own canary's vectors.
ORIGIN = "self-made: this artifact's cpu-fp32"

#: Most scores of a text in all heads of an attention, of which a graph holds several copies of 64 MB: 1,024 tokens with 16
#: heads, 724 with 32.
SCORES = 16 << 20

#: Outputs by name; None is the first one.
_Values = dict[str | None, NDArray[np.float32]]


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
        if provider.name == MLAS.name and (artifact.path / variant.weights).stat().st_size >= LARGE:
            values, apart = _compute_in_pieces(artifact, variant, canary)
        else:
            opened = session if is_open and session is not None else _open(artifact, variant, provider.name)
            workers = Workers(opened, variant.outputs, name=card.name, count=1, token_budget=card.max_tokens)
            with closing(workers):
                values, apart = _compute(workers, canary)
        result = canary.judge_all(values.__getitem__, card.output, variant.tolerance)
        if not result.passed:
            raise CanaryError(
                f"{card.name} ({variant.name} on {provider.name}) does not reproduce its canary: {result.reason}. It "
                "would serve wrong vectors, so it was removed"
            )
        difference = float(np.abs(values[None] - apart).max(initial=0.0))
        results.append(CanaryCheck(variant.name, result, difference))
    return results


def _open(artifact: Artifact, variant: Variant, provider: str) -> Session:
    """Open a variant on all cores."""
    return open_session(artifact, variant, provider=provider, threads=len(this_machine().processors))


def _compute(workers: Workers, canary: Canary) -> tuple[_Values, NDArray[np.float32]]:
    """Return the outputs of all texts by name, None for the first one, and the first one of each text alone."""
    texts = canary.encodings
    values: _Values = {None: workers.compute(texts)}
    values |= {name: workers.compute(texts, name) for name in canary.further}
    return values, np.concatenate([workers.compute(texts.select(np.array([row]))) for row in range(len(texts))])


def _compute_in_pieces(artifact: Artifact, variant: Variant, canary: Canary) -> tuple[_Values, NDArray[np.float32]]:
    """Return the same without a session of the whole model, whose weights may be more than the memory."""
    texts, first = canary.encodings, variant.outputs[0].name
    single = [[row] for row in range(len(texts))]
    model = onnx.load_model_from_string(read_graph(artifact, variant))
    feeds = [
        make_feeds(variant.inputs, variant.feeds, texts.select(np.array(rows)))
        for rows in (*group_rows(texts.lengths.tolist()), *single)
    ]
    found = compute_in_pieces(model, artifact.path, feeds, (first, *canary.further))
    together, apart = found[: -len(single)], found[-len(single) :]
    values: _Values = {
        name: np.concatenate([batch[name or first] for batch in together]) for name in (None, *canary.further)
    }
    return values, np.concatenate([batch[first] for batch in apart])


def own_texts(
    tokenizer: Tokenizer, card: ModelCard, architecture: Architecture, source: str, *, half: bool = False
) -> Canary:
    """Return a canary without its vectors: a few texts and their token ids.

    Args:
        tokenizer: tokenizer of the artifact.
        card: card of the model.
        architecture: encoder and modules.
        source: name of the checkpoint in messages.
        half: whether a variant computes in a half type, so that the texts with the largest activations belong to the canary.
    """
    prompted = (prompt + SENTENCES[0] for prompt in card.prompts.values())
    heads = max((attention.num_heads for attention in architecture.attentions), default=1)
    most = math.isqrt(SCORES // heads)
    extremes = (_shortened(tokenizer, text, most) for text in EXTREMES) if half else ()
    chosen = ["", *SENTENCES[::CANARY_STEP], *prompted, *extremes]
    texts = with_tokens(tokenizer, chosen, source)
    queries = (*texts[1:], texts[0]) if card.output == "scores" else ()
    encodings = encode_canary(tokenizer, card, texts, queries)
    return Canary(texts, encodings, np.zeros((0, 0), np.float32), ORIGIN, queries)


def _shortened(tokenizer: Tokenizer, text: str, most: int) -> str:
    """Return the beginning of a text that has at most `most` tokens."""
    while (count := len(tokenizer.encode([text]).ids)) > most:
        text = text[: len(text) * most // count]
    return text


def own_canary(session: Session | None, writer: GraphWriter, texts: Canary) -> Canary:
    """Add the fp32 graph's vectors of the texts. They show later damage, not that the graph is right.

    Args:
        session: session of the written `cpu-fp32`, which computes one text at a time; None computes the graph in pieces.
        writer: writer of the graphs.
        texts: the canary without its vectors.
    """
    encodings, outputs = texts.encodings, writer.token_outputs
    if session is None:
        further = writer.reference(encodings)
        vectors = further.pop(writer.output)
    else:
        rows = [encodings.select(np.array([row])) for row in range(len(encodings))]
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
