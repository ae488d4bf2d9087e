"""Bulk job: embed a file of texts into a file of vectors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fletcher import __version__
from fletcher.model_zoo.progress import SILENT, Counter
from fletcher.runtime import Embeddings, Encoder, TextOutputs
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Requested
from fletcher.runtime.options.embed import EmbedOptions

from ..arrow.columns import Widths
from .chunks import TextChunk, TextSource
from .vectors import open_vectors

__all__ = ["EmbedSummary", "embed_file"]


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """Summary of a bulk job.

    Attributes:
        output: path of the file of vectors.
        model: name of the model, from its card.
        variant: name of the graph that ran.
        provider: provider that ran the graph.
        texts: number of vectors written.
        dimension: dimension of each vector.
        tokens: number of tokens that the model processed.
        truncated_texts: number of texts that were longer than the model's limit.
        dropped_tokens: number of tokens that were cut from these texts.
        seconds: seconds from the first text to the complete file, without loading the model.
        space: identifier of the space of the vectors.
        texts_per_second: `texts` divided by `seconds`.
        tokens_per_second: `tokens` divided by `seconds`.
    """

    output: Path
    model: str
    variant: str
    provider: str
    texts: int
    dimension: int
    tokens: int
    truncated_texts: int
    dropped_tokens: int
    seconds: float
    space: str
    texts_per_second: float
    tokens_per_second: float


def embed_file(
    encoder: Encoder,
    source: TextSource,
    output: Path,
    *,
    options: EmbedOptions,
    force: bool,
    space: str | None = None,
    requested: Requested = "vectors",
    progress: Counter = SILENT,
) -> EmbedSummary:
    """Embed every text of a source, in its order.

    Args:
        encoder: the model.
        source: texts, from `open_texts`.
        output: file to write: .npy, .parquet or .arrow.
        options: options of embedding.
        force: replace `output` if it exists.
        space: identifier of the space that the vectors must have; None accepts every space.
        requested: the requested output, or several that include the vectors.
        progress: counts texts and tokens.

    Raises:
        InputError: a text, an option or a file cannot be used, or the vectors would be of another space. `output` is not
            changed.
        OSError: the output cannot be written. `output` is not changed.
    """
    encoder.info.check_request(options, requested)  # raise the error before the output is created
    ours = encoder.info.spaces.of(options, requested)
    if space not in (None, ours):
        raise InputError(
            f"the vectors would be of the space {ours}, not {space}: vectors of two spaces cannot be compared. "
            "`fletcher-convert model diff` says why two artifacts differ"
        )
    dimension = options.dimensions or encoder.info.dimension
    started = time.monotonic()
    texts = tokens = truncated = dropped = 0
    widths = Widths(dimension, requested, encoder.info.token_dimension)
    with open_vectors(output, widths, source.schema, options, _facts(encoder, options, ours), force=force) as writer:
        for chunk, embeddings in _embedded(encoder, source, options, requested):
            counts, cut = embeddings.tokens, embeddings.dropped
            writer.write(chunk, embeddings)
            progress.advance(len(chunk.texts), int(counts.sum()))
            texts += len(chunk.texts)
            tokens += int(counts.sum())
            truncated += int(np.count_nonzero(cut))
            dropped += int(cut.sum())
    seconds = time.monotonic() - started
    return EmbedSummary(
        output=output,
        model=encoder.info.card.name,
        variant=encoder.info.variant,
        provider=encoder.info.provider,
        texts=texts,
        dimension=dimension,
        tokens=tokens,
        truncated_texts=truncated,
        dropped_tokens=dropped,
        seconds=round(seconds, 6),
        space=ours,
        texts_per_second=round(texts / seconds, 1),
        tokens_per_second=round(tokens / seconds, 1),
    )


def _facts(encoder: Encoder, options: EmbedOptions, space: str) -> dict[str, str]:
    """Return the facts about the vectors that their file has: the names are those of Flight's schemas."""
    info = encoder.info
    return {
        "version": __version__,
        "model": info.card.name,
        "digest": info.digest,
        "variant": info.variant,
        "space": space,
        "dtype": options.dtype,
    }


def _embedded(
    encoder: Encoder, source: TextSource, options: EmbedOptions, requested: Requested
) -> Iterator[tuple[TextChunk, Embeddings | TextOutputs]]:
    """Yield each chunk with its embeddings."""
    if not isinstance(requested, str):  # the vectors of tokens of one chunk are in memory, not those of three
        for chunk in source.chunks:
            yield chunk, encoder.embed_outputs(chunk.texts, requested, options)
        return
    # The encoder reads ahead on a separate thread. The chunks that it has read wait here for their vectors.
    waiting: deque[TextChunk] = deque()

    def texts() -> Iterator[list[str]]:
        for chunk in source.chunks:
            waiting.append(chunk)
            yield chunk.texts

    for embeddings in encoder.stream(texts(), options):
        yield waiting.popleft(), embeddings
