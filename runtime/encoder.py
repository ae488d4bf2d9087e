"""The `Encoder`: an artefact that was loaded, checked against its canary, and turns texts into vectors."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import INPUT_TYPES, RAW, ModelCard

from .artifact import Artifact
from .batching import plan_batches
from .canary import CanaryResult, check_vectors, comparable, encode_canary, read_canary
from .encodings import Embeddings, Encodings
from .errors import CanaryError, InputError, ProviderError
from .heads import Scores, SparseEmbeddings, TokenEmbeddings, embed_sparse, embed_tokens, require, score
from .manifest import Variant
from .session import Session, open_session
from .tokenizer import Tokenizer

__all__ = ["Encoder"]

#: Tokens a CPU batch should hold: small sorted batches stay in the caches. MiniLM on two workers, throughput relative to this
#: budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40 for 8192 (benchmarks/batching, docs/benchmarks.md).
TOKEN_BUDGET = 512

DEFAULT_INPUT_TYPE = "document"

#: torch's defaults of `nn.functional.layer_norm` and `nn.functional.normalize`.
LAYER_NORM_EPSILON = 1e-5
NORMALIZE_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class _Pending:
    """Batches under way: `vectors` is whole once every future is done."""

    encodings: Encodings
    vectors: NDArray[np.float32]
    futures: list[Future[None]]

    def result(self) -> NDArray[np.float32]:
        try:
            for future in self.futures:
                future.result()
        finally:
            self.cancel()
        return self.vectors

    def cancel(self) -> None:
        """Forgets the batches that no worker has begun."""
        for future in self.futures:
            future.cancel()


class Encoder:
    """Turns texts into vectors. Safe to use from several threads at once; a context manager that closes its session.

    Attributes:
        artifact: the folder.
        variant: the graph that runs.
        workers: threads that compute batches, each on one core.
        token_budget: tokens that a batch should hold.
    """

    def __init__(
        self,
        artifact: Artifact,
        variant: Variant,
        session: Session,
        tokenizer: Tokenizer,
        workers: int,
        token_budget: int,
    ) -> None:
        """Joins parts that were opened; `Encoder.load` is what most callers want."""
        self.artifact = artifact
        self.variant = variant
        self.workers = workers
        self.token_budget = token_budget
        self._session = session
        self._tokenizer = tokenizer
        self._canary = read_canary(artifact.canary_file)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fletcher-compute")

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        variant: str | None = None,
        workers: int | None = None,
        token_budget: int | None = None,
    ) -> Encoder:
        """Opens an artefact, and refuses it unless its files are whole and its canary passes.

        Args:
            path: the artefact's folder.
            variant: name of the graph; None takes the artefact's first.
            workers: threads that compute batches; None is one for each processor that this process may use.
            token_budget: tokens that a batch should hold; None takes the default.

        Raises:
            ArtifactError: the folder is no artefact, or damaged.
            ChecksumError: a file is not the one that was written.
            CanaryError: the session does not reproduce the reference vectors.
            MissingPackageError: the provider's package is not installed.
            ProviderError: the variant cannot run here.
            InputError: `workers` or `token_budget` is below 1.
        """
        artifact = Artifact.open(path)
        artifact.check_files()
        encoder = cls.open(artifact, variant=variant, workers=workers, token_budget=token_budget)
        try:
            encoder.require_canary()
        except BaseException:
            encoder.close()
            raise
        return encoder

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        variant: str | None = None,
        workers: int | None = None,
        token_budget: int | None = None,
    ) -> Encoder:
        """Opens an artefact without looking at its checksums and its canary: for whoever has just written it.

        Args, and errors but those of the checks, as in `load`.
        """
        workers = usable_processors() if workers is None else workers
        token_budget = TOKEN_BUDGET if token_budget is None else token_budget
        for name, value in (("workers", workers), ("token_budget", token_budget)):
            if value < 1:
                raise InputError(f"{name} is {value}, and must be at least 1")
        chosen = artifact.variant(variant)
        tokenizer = Tokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
        return cls(artifact, chosen, open_session(artifact, chosen, threads=1), tokenizer, workers, token_budget)

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self.artifact.manifest.card

    @property
    def tokenizer(self) -> Tokenizer:
        """The artefact's tokenizer."""
        return self._tokenizer

    @property
    def dimension(self) -> int:
        """Length of a full vector; of scores their number, of sparse vectors the vocabulary's size."""
        return self.card.dimension

    @property
    def max_tokens(self) -> int:
        """Longest input, special tokens included; longer ones are truncated."""
        return self.card.max_tokens

    @property
    def provider(self) -> str:
        """Where the session really runs."""
        return self._session.provider

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings:
        """Adds the prompt of the input type, tokenises, and truncates.

        Args:
            texts: any number of texts; an empty one becomes its prompt and special tokens alone.
            input_type: "query", "document", "clustering", "classification", another prompt of the model's card, or "raw"
                for no prompt; None is "document".

        Raises:
            InputError: an unknown input type, a text that is no valid Unicode string, or one that has no token at all.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string: pass a list of strings")
        prompt = self.prompt(input_type)
        if prompt:
            texts = [prompt + text if isinstance(text, str) else text for text in texts]
        encodings = self._tokenizer.encode(texts)
        if not encodings.lengths.all():
            raise InputError(
                f"text {int(np.argmin(encodings.lengths))} has no token, and the tokenizer of {self.card.name} adds no "
                "special ones, so there is nothing to embed: leave it out"
            )
        return encodings

    def prompt(self, input_type: str | None = None) -> str:
        """The prefix of an input type; empty where the model has none.

        Raises:
            InputError: an input type that neither Fletcher nor the model's card knows.
        """
        input_type = DEFAULT_INPUT_TYPE if input_type is None else input_type
        if input_type == RAW:
            return ""
        prompts = self.card.prompts
        if input_type not in prompts and input_type not in INPUT_TYPES:
            known = ", ".join(dict.fromkeys([*INPUT_TYPES, *prompts, RAW]))
            raise InputError(f"input type {input_type!r} is unknown to {self.card.name}: use one of {known}")
        return prompts.get(input_type, "")

    def encodings_from_ids(self, rows: Sequence[Sequence[int]]) -> Encodings:
        """Takes token ids that the caller made, special tokens included, and truncates them.

        Raises:
            InputError: an empty row, an id outside the vocabulary, or one that is no whole number.
        """
        size = self._tokenizer.vocabulary_size
        arrays = [np.asarray(row) for row in rows]
        for index, ids in enumerate(arrays):
            if not ids.size:
                raise InputError(f"row {index} of token ids is empty: it needs at least one id")
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise InputError(f"row {index} of token ids holds something else than whole numbers below 2^63")
            for token in (int(ids.min()), int(ids.max())):
                if not 0 <= token < size:
                    raise InputError(f"row {index} holds the token id {token}; the vocabulary has ids 0 to {size - 1}")
        return self._tokenizer.truncate([ids.astype(np.int32) for ids in arrays])

    def run(self, batch: Encodings) -> NDArray[np.float32]:
        """Computes one batch on the calling thread, without the GIL.

        A batch that `plan_batches` would not have formed (more tokens than the budget, or lengths so uneven that attention
        would be mostly padding) is computed in parts.

        Args:
            batch: at least one text.

        Returns:
            Vectors, float32, (n, dimension), in the order of the batch.

        Raises:
            ProviderError: the session gave NaN or infinity, failed, or was closed.
        """
        vectors = self._run_parts(batch)
        if not np.isfinite(vectors).all():
            rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            raise ProviderError(
                f"{self.variant.name} on {self.provider} gave NaN or infinity for row {rows[0]} of a batch of {len(batch)}: "
                "the vectors are not used. Verify the artefact, or choose another variant"
            )
        return vectors

    def _run_parts(self, batch: Encodings) -> NDArray[np.float32]:
        parts = plan_batches(batch.lengths, self.token_budget)
        if len(parts) == 1:
            return self._session.run(batch)
        vectors = self._empty(batch)
        for rows in parts:
            vectors[self._places(batch, rows)] = self._session.run(batch.select(rows))
        return vectors

    def _empty(self, encodings: Encodings) -> NDArray[np.float32]:
        """Room for what the graph gives of these texts: a row a text, or a row a token."""
        rows = encodings.num_tokens if self.card.output == "token_vectors" else len(encodings)
        return np.empty((rows, self.dimension), np.float32)

    def _places(self, encodings: Encodings, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in that room the rows' results belong."""
        return encodings.token_index(rows) if self.card.output == "token_vectors" else rows

    def compute(self, encodings: Encodings) -> NDArray[np.float32]:
        """Computes any number of texts on all workers, in the order given.

        Returns:
            float32, (n, dimension); for a model that gives token vectors, (tokens, dimension).
        """
        return self._start(encodings).result()

    def _start(self, encodings: Encodings) -> _Pending:
        vectors = self._empty(encodings)

        def work(rows: NDArray[np.int64]) -> None:
            vectors[self._places(encodings, rows)] = self.run(encodings.select(rows))

        batches = plan_batches(encodings.lengths, self.token_budget)
        try:
            return _Pending(encodings, vectors, [self._pool.submit(work, rows) for rows in batches])
        except RuntimeError as error:  # what a pool that was shut down raises
            raise ProviderError(f"the encoder of {self.artifact.path} was closed: load the artefact again") from error

    def shorten(self, vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
        """Cuts vectors to one of the model's Matryoshka dimensions.

        The order is the model's own: layer norm without weights (where the card says so), cut, L2. Layer norm after the
        graph's L2 equals layer norm before it but for the vector's length, which the L2 that follows sets anew.

        Args:
            vectors: float32, (n, dimension).
            dimensions: the wanted length; None leaves the vectors as they are.

        Returns:
            float32, (n, dimensions).

        Raises:
            InputError: the model was not trained for that length.
        """
        if dimensions in (None, self.dimension):
            return vectors
        if dimensions not in self.card.matryoshka:
            offered = ", ".join(map(str, dict.fromkeys([self.dimension, *self.card.matryoshka])))
            raise InputError(f"{self.card.name} gives vectors of {offered} dimensions, not of {dimensions}")
        if self.card.layer_norm_before_truncation:
            centred = vectors - vectors.mean(axis=1, keepdims=True)
            vectors = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
        cut = vectors[:, :dimensions]
        if self.card.normalize:
            norms: NDArray[np.float32] = np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), NORMALIZE_EPSILON)
            return cut / norms
        return np.ascontiguousarray(cut)

    def embed(
        self, texts: Sequence[str], *, input_type: str | None = None, dimensions: int | None = None
    ) -> Embeddings:
        """Texts in, vectors out.

        Args:
            texts: any number, none included. An empty text has a vector too: that of its prompt and special tokens.
            input_type: see `tokenize`.
            dimensions: see `shorten`.

        Raises:
            InputError: texts, input type or dimensions that cannot be used.
        """
        require(self.card, "vectors")
        self.shorten(np.empty((0, self.dimension), np.float32), dimensions)  # refuse before computing
        encodings = self.tokenize(texts, input_type)
        return Embeddings(self.shorten(self.compute(encodings), dimensions), encodings.lengths, encodings.dropped)

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Scores documents for a query, in the order given: rerankers only.

        Raises:
            InputError: the model is no reranker, or a text is no valid Unicode string.
        """
        return score(self, query, documents)

    def embed_sparse(self, texts: Sequence[str], *, input_type: str | None = None) -> SparseEmbeddings:
        """Texts in, weights of the vocabulary's tokens out: SPLADE models only.

        Raises:
            InputError: the model gives something else, or texts or input type cannot be used.
        """
        return embed_sparse(self, texts, input_type)

    def embed_tokens(self, texts: Sequence[str], *, input_type: str | None = None) -> TokenEmbeddings:
        """Texts in, a vector for each token out: ColBERT models only. The input type "query" makes queries of the texts.

        Raises:
            InputError: the model gives something else, or texts or input type cannot be used.
        """
        return embed_tokens(self, texts, input_type)

    def stream(
        self, chunks: Iterable[Sequence[str]], *, input_type: str | None = None, dimensions: int | None = None
    ) -> Iterator[Embeddings]:
        """Embeds a long sequence of chunks with bounded memory: reading and tokenising hide behind computing.

        While a chunk computes, the next one is read and tokenised, and its batches wait behind the first one's, so that no
        worker idles at a chunk's end. Three chunks are in memory at most.

        Args:
            chunks: lists of texts; a few thousand texts each keep the batches well sorted.
            input_type: see `tokenize`.
            dimensions: see `shorten`.

        Yields:
            One `Embeddings` a chunk, in order.
        """
        require(self.card, "vectors")
        self.shorten(np.empty((0, self.dimension), np.float32), dimensions)
        source = iter(chunks)

        def read() -> Encodings | None:
            texts = next(source, None)
            return None if texts is None else self.tokenize(texts, input_type)

        def finish(pending: _Pending) -> Embeddings:
            vectors = self.shorten(pending.result(), dimensions)
            return Embeddings(vectors, pending.encodings.lengths, pending.encodings.dropped)

        with ThreadPoolExecutor(1, thread_name_prefix="fletcher-read") as reader:
            reading = reader.submit(read)
            started: deque[_Pending] = deque()
            try:
                while (encodings := reading.result()) is not None:
                    reading = reader.submit(read)
                    started.append(self._start(encodings))
                    if len(started) > 1:
                        yield finish(started.popleft())
                while started:
                    yield finish(started.popleft())
            finally:  # the chunks failed, or the caller has enough
                for pending in started:
                    pending.cancel()

    def require_canary(self) -> CanaryResult:
        """Runs the canary.

        Raises:
            CanaryError: the session does not reproduce the reference vectors.
        """
        result = self.check_canary()
        if not result.passed:
            raise CanaryError(
                f"{self.artifact.path} ({self.variant.name} on {self.provider}) does not reproduce its canary: "
                f"{result.reason}. It would serve wrong vectors, so it is not loaded: convert the checkpoint again, "
                "or choose another variant"
            )
        return result

    def check_canary(self) -> CanaryResult:
        """Runs the canary on this session: the tokenizer must give its ids, and the graph its vectors."""
        canary, wanted = self._canary, self._canary.encodings
        encodings = encode_canary(self._tokenizer, self.card, canary.texts, canary.queries)
        if not all(
            np.array_equal(getattr(encodings, part), getattr(wanted, part)) for part in ("ids", "offsets", "types")
        ):
            return CanaryResult(False, -1.0, float("inf"), "the tokenizer gives other ids than the canary's")
        tolerance = self.variant.tolerance
        return check_vectors(
            *comparable(self.card.output, self.compute(encodings), canary.vectors),
            min_cosine=tolerance.min_cosine,
            max_abs=tolerance.max_abs,
        )

    def close(self) -> None:
        """Waits for the batches under way and gives the memory back."""
        self._pool.shutdown()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def usable_processors() -> int:
    """Processors that this process may run on, by its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
