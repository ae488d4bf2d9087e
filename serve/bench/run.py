"""`bench`: all participants load, then each is measured once in every round. Ratios are computed within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fletcher.runtime import Artifact, LoadOptions
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import InputError, ProviderError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.machine.machine import this_machine

from .participants import FLETCHER, ChildError, Participant, fletcher_command, peer_command
from .results import BenchResult, Figures

__all__ = ["bench"]

#: Batch sizes that are tried with each peer, and the number of texts for each trial. sentence-transformers' default is 32.
BATCH_SIZES = (8, 16, 32, 64, 128)
PROBE_TEXTS = 200

#: Number of single texts in each round.
LATENCY_TEXTS = 100

#: Number of texts whose vectors are compared.
SAMPLE_TEXTS = 64


@dataclass(slots=True)
class _Record:
    """Measurements of a participant."""

    participant: Participant
    batch_size: int | None = None
    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    stages: dict[str, Any] = field(default_factory=dict)
    cosine: float | None = None
    peak: int = 0
    problem: str | None = None


def bench(
    directory: Path,
    texts: Sequence[str],
    *,
    corpus: str,
    options: LoadOptions,
    peers: Sequence[str] = (),
    checkpoint: Path | None = None,
    rounds: int = 3,
    say: Callable[[str], None],
) -> BenchResult:
    """Measure an artifact, and peers beside it.

    Args:
        directory: the artifact's folder.
        texts: the corpus, at least one text.
        corpus: name of the corpus, for the result.
        options: options of loading the artifact; the vector cache is off.
        peers: `NAME` or `NAME=PYTHON`; see `child.PEERS`.
        checkpoint: folder of the checkpoint that peers load.
        rounds: number of rounds.
        say: called with messages about the progress.

    Raises:
        InputError: there is no text, or a peer is unknown.
        ArtifactError: the folder is not an artifact.
        ProviderError: Fletcher's own child failed; a peer that fails has a row with its problem.
    """
    try:
        return _bench(directory, texts, corpus, options, peers, checkpoint, rounds, say)
    except ChildError as error:
        raise ProviderError(str(error)) from error


def _bench(
    directory: Path,
    texts: Sequence[str],
    corpus: str,
    options: LoadOptions,
    peers: Sequence[str],
    checkpoint: Path | None,
    rounds: int,
    say: Callable[[str], None],
) -> BenchResult:
    if not texts:
        raise InputError("there is no text to measure with")
    artifact = Artifact.open(directory)
    card = artifact.manifest.card
    tokenizer = open_tokenizer(artifact)
    tokens = tokenizer.encode([card.prompts.get("document", "") + text for text in texts]).num_tokens
    commands = [peer_command(peer, checkpoint) for peer in peers]
    failed: list[Figures] = []
    with ExitStack() as stack:
        say("loading fletcher")
        records = [_Record(stack.enter_context(Participant(FLETCHER, fletcher_command(directory, options))))]
        for name, command in commands:
            say(f"loading {name}")
            try:
                records.append(_Record(stack.enter_context(Participant(name, command))))
            except ChildError as error:
                failed.append(Figures(name=name, problem=str(error)))
        for record in records:
            record.participant.ask(do="texts", texts=list(texts))
            _warm_up(record, texts)
        for number in range(rounds):
            for record in records:
                say(f"round {number + 1} of {rounds}: {record.participant.name}")
                _run_round(record, texts)
        reference = _compare(records, artifact, texts)
        for record in records:
            if record.problem is None:
                record.peak = record.participant.ask(do="usage")["peak_rss"]
    ours, *_ = measured = [_figures(record, records[0], len(texts), tokens) for record in records]
    return BenchResult(
        model=card.name,
        texts=len(texts),
        tokens=tokens,
        corpus=corpus,
        rounds=rounds,
        processors=len(this_machine().processors),
        reference=reference,
        throughput_texts_per_s=ours.throughput_texts_per_s or 0.0,
        tokens_per_s=ours.tokens_per_s or 0.0,
        latency_p50_ms=ours.latency_p50_ms or 0.0,
        latency_p99_ms=ours.latency_p99_ms or 0.0,
        padding_waste=ours.padding_waste or 0.0,
        peak_rss_mb=ours.peak_rss_mb or 0.0,
        participants=[*measured, *failed],
    )


def _warm_up(record: _Record, texts: Sequence[str]) -> None:
    """Warm up, and find the best batch size of a peer. Each size has two trials, and the faster one counts."""
    participant = record.participant
    try:
        participant.ask(do="latency", texts=list(texts[:10]))
        participant.ask(do="embed", count=min(len(texts), 64))
        if participant.name == FLETCHER:
            return
        probes: dict[int, float] = {}
        for size in BATCH_SIZES * 2:
            participant.ask(do="batch_size", size=size)
            seconds = participant.ask(do="embed", count=min(len(texts), PROBE_TEXTS))["seconds"]
            probes[size] = min(seconds, probes.get(size, seconds))
        record.batch_size = min(probes, key=lambda size: probes[size])
        participant.ask(do="batch_size", size=record.batch_size)
    except ChildError as error:
        _give_up(record, error)


def _run_round(record: _Record, texts: Sequence[str]) -> None:
    """Measure throughput and latency of a participant once. A participant with a problem is skipped."""
    if record.problem is not None:
        return
    try:
        answer = record.participant.ask(do="embed", count=len(texts))
        record.seconds.append(answer["seconds"])
        record.stages = answer
        record.latencies += record.participant.ask(do="latency", texts=list(texts[:LATENCY_TEXTS]))["seconds"]
    except ChildError as error:
        _give_up(record, error)


def _give_up(record: _Record, error: ChildError) -> None:
    """Store the problem of a peer, so that it is skipped. Raise the error if it is Fletcher's."""
    if record.participant.name == FLETCHER:
        raise error
    record.problem = str(error)


def _compare(records: Sequence[_Record], artifact: Artifact, texts: Sequence[str]) -> str:
    """Compute cosines with sentence-transformers on torch if it takes part, otherwise Fletcher's with the canary's."""
    torch = next((r for r in records if r.participant.name == "sentence-transformers" and not r.problem), None)
    if torch is None:
        records[0].cosine = float(records[0].participant.ask(do="accuracy")["min_cosine"])
        return f"the canary's, by {read_canary(artifact.canary_file).origin}"
    sample = list(texts[:SAMPLE_TEXTS])
    expected = torch.participant.vectors(sample).astype(np.float64)
    for record in records:
        if record.problem is not None:
            continue
        try:
            vectors = record.participant.vectors(sample).astype(np.float64)
        except ChildError as error:
            _give_up(record, error)
            continue
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        record.cosine = float(((vectors * expected).sum(axis=1) / lengths).min())
    return torch.participant.versions


def _figures(record: _Record, ours: _Record, texts: int, tokens: int) -> Figures:
    participant = record.participant
    if record.problem is not None or not record.seconds:
        return Figures(name=participant.name, versions=participant.versions, problem=record.problem or "no round")
    seconds = statistics.median(record.seconds)
    ratios = [theirs / own for theirs, own in zip(record.seconds, ours.seconds, strict=True)]
    p50, p95, p99 = (1000 * float(np.percentile(record.latencies, share)) for share in (50, 95, 99))
    stages = {
        name: round(record.stages[name], 4)
        for name in ("padding_waste", "compute_share", "busy_share", "tokenizing_share", "output_share")
        if name in record.stages
    }
    return Figures(
        name=participant.name,
        versions=participant.versions,
        throughput_texts_per_s=round(texts / seconds, 2),
        tokens_per_s=round(tokens / seconds, 1),
        ratio=round(statistics.median(ratios), 3),
        ratio_lowest=round(min(ratios), 3),
        latency_p50_ms=round(p50, 4),
        latency_p95_ms=round(p95, 4),
        latency_p99_ms=round(p99, 4),
        latency_ratio=round(p50 / (1000 * float(np.percentile(ours.latencies, 50))), 3),
        peak_rss_mb=round(record.peak / 1e6, 1),
        min_cosine=record.cosine,
        batch_size=record.batch_size,
        **stages,
    )
