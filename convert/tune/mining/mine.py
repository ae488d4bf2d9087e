"""`mine_negatives`: texts of a corpus that are near a query and do not belong to it, as training data."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.durable import new_file
from fletcher.runtime.errors import InputError
from fletcher.runtime.model_info import require_output
from fletcher.runtime.tasks.postprocess import normalize

from ..data.examples import Example
from ..models.reranker import convert_reranker, find_reranker
from .files import CorpusFile, Mined, fingerprint
from .nearest import NearestDocuments
from .options import MiningOptions

__all__ = ["MiningReport", "choose_negatives", "mine_negatives"]

Vectors = NDArray[np.float32]

#: Positions of a query's texts in a run of the encoder.
EMBEDDED = 8192


@dataclass(frozen=True, slots=True)
class MiningReport:
    """`MiningReport`: result of mining.

    Attributes:
        output: the file that was written.
        queries: number of different queries.
        pairs: number of different pairs, which are the lines of the output.
        documents: number of different texts of the corpus.
        copies: texts of the corpus that equal an earlier one.
        false_negatives: candidates that margins and bounds removed.
        without: pairs without any negative, which are written all the same: their queries and positives can be trained on.
        short: pairs with fewer negatives than requested.
        positive_score: mean score of a query and its positives.
        negative_score: mean score of a query and its negatives; NaN if there are none.
    """

    output: Path
    queries: int
    pairs: int
    documents: int
    copies: int
    false_negatives: int
    without: int
    short: int
    positive_score: float
    negative_score: float


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Documents that were compared with the queries: their offsets, and the number of copies."""

    offsets: NDArray[np.int64]
    copies: int


def mine_negatives(
    folder: str | Path,
    pairs: Sequence[Example],
    corpus: Path,
    output: Path,
    options: MiningOptions | None = None,
    *,
    progress: Progress = SILENT,
) -> MiningReport:
    """Find hard negatives, and write a line of JSON for each pair: `query`, `positive`, `negatives`, `scores`, and its group.

    The corpus is read in chunks and never held in memory. A text that equals a positive of the query, or the query itself, is
    not its negative. All positives of a query count for margins; the least similar one decides.

    Args:
        folder: artifact of the encoder.
        pairs: queries and positives.
        corpus: jsonl with `text`, or a text on each line.
        output: file to write; it appears when it is complete.
        options: window, margins and bounds. Default: `MiningOptions()`.
        progress: receives counts.

    Raises:
        InputError: a file cannot be read, the corpus has no text, a model has another output, or a vector is not finite.
        ArtifactError: an artifact cannot be loaded.
    """
    options = MiningOptions() if options is None else options
    _check_output(output)
    positives: dict[str, dict[str, str | None]] = {}
    for pair in pairs:
        positives.setdefault(pair.query, {}).setdefault(pair.positive, pair.group)
    queries = list(positives)
    depth = options.window + max(map(len, positives.values())) + 1  # the query itself may be among the documents
    file = CorpusFile(corpus)
    judge = None if options.reranker is None else find_reranker(options.reranker, progress)
    with Encoder.load(folder) as encoder:
        require_output(encoder.card, "vectors")
        nearest = NearestDocuments(_embed(encoder, queries, "query"), depth)
        scores = _positive_scores(encoder, positives, nearest)
        found = _stream(encoder, file, nearest, progress)
    if not len(found.offsets):
        raise InputError(f"{corpus} has no text to mine")
    with ExitStack() as stack:
        reranker = None
        if judge is not None:
            place = Path(stack.enter_context(TemporaryDirectory())) / "reranker"
            reranker = stack.enter_context(Encoder.load(convert_reranker(judge, place, progress)))
        return _write(_Mining(file, positives, nearest, scores, found, reranker, options), output, progress)


def _check_output(output: Path) -> None:
    """Raise an error if a file cannot be written there, before the corpus is read.

    Raises:
        InputError: that is so.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{output}: {output.parent} is a file, not a folder") from None
    if output.is_dir():
        raise InputError(f"{output} is a folder: name a file, such as {output / 'mined.jsonl'}")


@dataclass(frozen=True, slots=True)
class _Mining:
    """Everything that the choice of negatives needs; `positives` has the groups of each query's positives."""

    file: CorpusFile
    positives: Mapping[str, Mapping[str, str | None]]
    nearest: NearestDocuments
    scores: list[Vectors]
    corpus: _Corpus
    reranker: Encoder | None
    options: MiningOptions


def _embed(encoder: Encoder, texts: Sequence[str], input_type: str) -> Vectors:
    """Return vectors of length 1, float32, (n, dimension).

    Raises:
        InputError: a vector has NaN or infinity.
    """
    vectors = encoder.embed(texts, input_type=input_type).vectors
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise InputError(f"the vector of {texts[int(broken.argmax())][:60]!r} has NaN or infinity: verify the artifact")
    return normalize(vectors)


def _positive_scores(
    encoder: Encoder, positives: Mapping[str, Mapping[str, str | None]], nearest: NearestDocuments
) -> list[Vectors]:
    """Return the cosines of each query with its positives."""
    flat = [text for texts in positives.values() for text in texts]
    owners = np.repeat(np.arange(len(positives)), [len(texts) for texts in positives.values()])
    parts = []
    for start in range(0, len(flat), EMBEDDED):
        vectors = _embed(encoder, flat[start : start + EMBEDDED], "document")
        parts.append(np.einsum("nd,nd->n", nearest.queries[owners[start : start + EMBEDDED]], vectors))
    ends = np.cumsum([len(texts) for texts in positives.values()])
    return np.split(np.concatenate(parts), ends[:-1])


def _stream(encoder: Encoder, file: CorpusFile, nearest: NearestDocuments, progress: Progress) -> _Corpus:
    """Compare every different text of the corpus with the queries."""
    seen: set[int] = set()
    offsets: list[NDArray[np.int64]] = []
    texts = 0
    with progress.count("mining", units=("documents",)) as counter:
        for chunk in file.chunks():
            texts += len(chunk)
            fresh: list[tuple[int, str]] = []
            for offset, text in chunk:
                mark = fingerprint(text)
                if mark not in seen:
                    seen.add(mark)
                    fresh.append((offset, text))
            if fresh:
                nearest.add(_embed(encoder, [text for _, text in fresh], "document"))
                offsets.append(np.array([offset for offset, _ in fresh], np.int64))
            counter.advance(len(chunk))
    joined = np.concatenate(offsets) if offsets else np.zeros(0, np.int64)
    return _Corpus(joined, texts - len(joined))


def _write(mining: _Mining, output: Path, progress: Progress) -> MiningReport:
    """Choose the negatives of each query, and write the output."""
    options, encoder = mining.options, msgspec.json.Encoder()
    generator = random.Random(options.seed)
    pairs = without = short = removed = 0
    positive_scores: list[float] = []
    negative_scores: list[float] = []
    with (
        new_file(output) as stream,
        progress.count("writing", total=len(mining.positives), units=("queries",)) as counter,
    ):
        for row, (query, texts) in enumerate(mining.positives.items()):
            own, candidates, scores = _candidates(mining, row, query, texts)
            chosen, filtered = choose_negatives(scores, own, options, generator)
            removed += filtered
            pairs += len(texts)
            short += len(texts) * (0 < len(chosen) < options.num_negatives)
            without += len(texts) * (not chosen)
            positive_scores += own.tolist()
            negative_scores += [float(scores[place]) for place in chosen]
            counter.advance(1)
            negatives = [candidates[place] for place in chosen]
            values = [float(scores[place]) for place in chosen]
            for (text, group), score in zip(texts.items(), own.tolist(), strict=True):
                stream.write(encoder.encode(Mined(query, text, negatives, [score, *values], group)) + b"\n")
    return MiningReport(
        output=output,
        queries=len(mining.positives),
        pairs=pairs,
        documents=len(mining.corpus.offsets),
        copies=mining.corpus.copies,
        false_negatives=removed,
        without=without,
        short=short,
        positive_score=float(np.mean(positive_scores)),
        negative_score=float(np.mean(negative_scores)) if negative_scores else float("nan"),
    )


def _candidates(
    mining: _Mining, row: int, query: str, positives: Collection[str]
) -> tuple[Vectors, list[str], Vectors]:
    """Return the scores of a query's positives, and its nearest documents with their scores, without the positives."""
    rows, scores = mining.nearest.ranked(row)
    texts = mining.file.texts_at(mining.corpus.offsets[rows].tolist())
    excluded = {*positives, query}
    kept = [place for place, text in enumerate(texts) if text not in excluded]
    candidates, scores, own = [texts[place] for place in kept], scores[kept], mining.scores[row]
    if mining.reranker is not None and mining.options.filters:
        judged = mining.reranker.score(query, [*positives, *candidates]).scores[:, 0]
        own, scores = judged[: len(positives)], judged[len(positives) :]
        order = np.argsort(-scores, kind="stable")
        candidates, scores = [candidates[place] for place in order.tolist()], scores[order]
    return own, candidates, scores


def choose_negatives(
    scores: Vectors, positives: Vectors, options: MiningOptions, generator: random.Random
) -> tuple[list[int], int]:
    """Return the places of the negatives among the candidates, the hardest first, and the number of removed candidates.

    Only the first `window` candidates count. `range_min` of those that margins and bounds leave are skipped.

    Args:
        scores: scores of the candidates, the best first, (n,).
        positives: scores of the positives, (positives,).
        options: window, margins and bounds.
        generator: source of `random` sampling.
    """
    scores, least = scores[: options.window], float(positives.min())
    allowed = np.ones(len(scores), bool)
    if options.absolute_margin is not None:
        allowed &= scores + options.absolute_margin <= least
    if options.relative_margin is not None:
        allowed &= scores <= least - abs(least) * options.relative_margin
    if options.max_score is not None:
        allowed &= scores <= options.max_score
    if options.min_score is not None:
        allowed &= scores >= options.min_score
    window = np.flatnonzero(allowed)[options.range_min :].tolist()
    if options.sampling == "random" and len(window) > options.num_negatives:
        window = sorted(generator.sample(window, options.num_negatives))
    return window[: options.num_negatives], int((~allowed).sum())
