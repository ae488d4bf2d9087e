"""`EmbeddedTexts`: vectors of the texts and queries of a quality report, by one artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import Progress
from fletcher.runtime import Encoder
from fletcher.runtime.encodings import Embeddings
from fletcher.runtime.errors import InputError
from fletcher.runtime.model_info import require_output
from fletcher.runtime.tasks.postprocess import normalize

from .inputs import QualityTexts
from .measures.robustness import describe_robustness
from .results import Robustness

__all__ = ["EmbeddedTexts", "embed_all", "unit_vectors"]

#: Texts between two counts of the progress.
CHUNK = 2048


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """`EmbeddedTexts`: vectors of the texts and queries of a quality report.

    Attributes:
        unit: vectors of the different texts, scaled to length 1, float32, (n, dimension).
        queries: vectors of the queries, scaled to length 1, float32, (queries, dimension); None without queries.
        tokens: tokens of each different text that the model processed, int64, (n,).
        dropped: tokens of each that truncation cut, int32, (n,).
        robustness: change of the vectors when texts change.
        seconds: time of the embedding.
    """

    unit: NDArray[np.float32]
    queries: NDArray[np.float32] | None
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]
    robustness: tuple[Robustness, ...]
    seconds: float


def embed_all(encoder: Encoder, texts: QualityTexts, input_type: str, progress: Progress) -> EmbeddedTexts:
    """Compute the vectors that a report needs.

    Args:
        encoder: the loaded artifact.
        texts: texts and queries.
        input_type: input type of the texts; queries have `query`.
        progress: receives the counts.

    Raises:
        InputError: the model gives no vectors, a vector has NaN or infinity, or all vectors are equal.
    """
    require_output(encoder.card, "vectors")
    started = time.perf_counter()
    parts: list[Embeddings] = []
    with progress.count("embedding", total=len(texts.different), units=("texts",)) as counter:
        for start in range(0, len(texts.different), CHUNK):
            chunk = texts.different[start : start + CHUNK]
            parts.append(encoder.embed(chunk, input_type=input_type))
            counter.advance(len(chunk))
    unit = unit_vectors(np.concatenate([part.vectors for part in parts]), texts.different)
    if np.ptp(unit, axis=0).max() < 1e-6:
        raise InputError(f"all {len(unit)} texts have the same vector: the model does not tell them apart")

    def embed(changed: Sequence[str], kind: str = input_type) -> NDArray[np.float32]:
        return unit_vectors(encoder.embed(changed, input_type=kind).vectors, changed)

    progress.line("embedding queries and changed texts" if texts.queries is not None else "embedding changed texts")
    queries = None if texts.queries is None else embed(texts.queries.texts, "query")
    robustness = describe_robustness(texts.different, unit, embed)
    return EmbeddedTexts(
        unit=unit,
        queries=queries,
        tokens=np.concatenate([part.tokens for part in parts]),
        dropped=np.concatenate([part.dropped for part in parts]),
        robustness=tuple(robustness),
        seconds=time.perf_counter() - started,
    )


def unit_vectors(vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    """Return vectors scaled to length 1.

    Args:
        vectors: float32, (n, dimension).
        texts: their texts, for the message.

    Raises:
        InputError: a vector has NaN or infinity, or is zero.
    """
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise InputError(
            f"{int(broken.sum())} of {len(vectors)} vectors have NaN or infinity, the first for the text "
            f"{texts[int(broken.argmax())][:60]!r}: verify the artifact with `fletcher-convert model verify`, or choose "
            "another variant"
        )
    zero = ~vectors.any(axis=1)
    if zero.any():
        raise InputError(f"the vector of the text {texts[int(zero.argmax())][:60]!r} is zero, so it has no direction")
    return normalize(vectors)
