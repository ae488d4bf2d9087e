"""The `Encoder`: an artifact that was loaded, checked against its canary, and turns texts into vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from .artifact.folder import Artifact
from .artifact.manifest import HALF_VECTORS, TOKEN_STATES
from .bulk import MANY_TEXTS, compute_tasks, embed_many, embed_split
from .canary import CanaryResult, gives_tokens, read_canary
from .embed_options import EmbedFields, EmbedOptions
from .encodings import Embeddings, Encodings
from .errors import CanaryError, InputError
from .load_options import LoadFields, LoadOptions
from .loading import Loaded, load_parts
from .providers.selection import check_provider, choose_variant
from .session.counters import DeviceMetric
from .tasks.duplicates import Promise, VectorCache
from .tasks.heads import (
    Scores,
    SparseEmbeddings,
    TokenEmbeddings,
    embed_sparse,
    embed_tokens,
    prepare_output,
    require,
    score,
)
from .tasks.postprocess import shorten
from .tasks.task import Task, check_strings, finish, prepare, tokenize
from .tokenizing.token_details import TextToken

__all__ = ["Encoder"]


class Encoder:
    """Turns texts into vectors. Safe to use from several threads at once; a context manager that closes its session.

    Attributes:
        artifact: the folder.
        variant: the graph that runs.
        provider_name: name of the provider that runs it, as options write it.
        tokenizer: the artifact's.
        cache: vectors of earlier calls.
        fallback: why another provider runs than the one that was wanted; None if it is that one.
        reason: why this provider, these workers and this token budget.
        tolerance: how far from the canary its vectors may be.
    """

    def __init__(self, artifact: Artifact, loaded: Loaded, *, cache_bytes: int = 0) -> None:
        """Joins parts that were opened; `Encoder.load` is what most callers want."""
        self.artifact = artifact
        self.variant = variant = loaded.variant
        self.provider_name = loaded.provider
        self.tokenizer = loaded.tokenizer
        self.fallback = loaded.fallback
        self.reason = loaded.reason
        self.tolerance = loaded.tolerance
        self._workers = loaded.workers
        self._canary = read_canary(artifact.canary_file)
        identity = f"{artifact.digest} {variant.name} {self.provider}"
        self.cache = VectorCache(identity, cache_bytes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        options: LoadOptions | None = None,
        **fields: Unpack[LoadFields],
    ) -> Encoder:
        """Open an artifact, and refuse it unless its files are whole and its canary passes.

        Args:
            path: the artifact's folder.
            options: how it is loaded and run.
            fields: fields of `LoadOptions` by name, instead of `options` or to change some of them.

        Raises:
            OptionError: an option has a value that is not allowed; nothing has been loaded.
            ArtifactError: the folder is not an artifact, or it is damaged.
            ChecksumError: a file is not the one that was written.
            CanaryError: the session does not reproduce the reference vectors.
            MissingPackageError: the provider's package is not installed.
            ProviderError: the variant cannot run here.
            InputError: the provider is unknown, or the memory limit is too small for one text of the longest length.
        """
        options = (options or LoadOptions()).replace(**fields)
        check_provider(options.provider)
        artifact = Artifact.open(path)
        artifact.check_files()
        encoder = cls.open(artifact, options)
        try:
            encoder.require_canary()
        except BaseException:
            encoder.close()
            raise
        return encoder

    @classmethod
    def open(cls, artifact: Artifact, options: LoadOptions | None = None, **fields: Unpack[LoadFields]) -> Encoder:
        """Open an artifact without checking its files and its canary, for a caller that has just written it.

        Args:
            artifact: the folder.
            options: as in `load`, but the default provider is `mlas`, so that nothing is measured.
            fields: as in `load`.

        Raises:
            As `load`, except for the checks.
        """
        options = (options or LoadOptions(provider="mlas")).replace(**fields)
        variant = choose_variant(artifact, options.variant, options.provider)
        return cls(artifact, load_parts(artifact, variant, options), cache_bytes=options.cache_bytes)

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self.artifact.manifest.card

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
        return self._workers.session.provider

    @property
    def workers(self) -> int:
        """Batches that are computed at once."""
        return self._workers.count

    @property
    def token_budget(self) -> int:
        """Tokens that a batch should hold."""
        return self._workers.token_budget

    @property
    def has_token_states(self) -> bool:
        """Whether the graph gives what late chunking needs."""
        return any(info.name == TOKEN_STATES for info in self.variant.outputs)

    def counters(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """What it counts by itself, for whoever shows it: by name, what it is, and how to read it."""
        stats, cache = self.tokenizer.stats, self.cache
        return {
            "tokenizer_seconds": ("Seconds inside the tokenizer, over all threads", lambda: stats.seconds),
            "tokenizer_texts": ("Texts tokenized", lambda: stats.texts),
            "tokenizer_tokens": ("Tokens made, those that truncation cut included", lambda: stats.tokens),
            "tokenizer_cache_hits": ("Texts whose tokens were known", lambda: stats.cache_hits),
            "tokenizer_cache_misses": ("Texts whose tokens were looked for in vain", lambda: stats.cache_misses),
            "vector_cache_hits": ("Texts whose vectors were known", lambda: cache.hits),
            "vector_cache_misses": ("Texts whose vectors were looked for in vain", lambda: cache.misses),
        }

    def device_metrics(self) -> Sequence[DeviceMetric]:
        """What each of its devices counts by itself; none where it runs on the processor."""
        return self._workers.session.metrics()

    def check(self, options: EmbedOptions) -> None:
        """Refuses options that the model does not have.

        Raises:
            InputError: names the option.
        """
        require(self.card, "vectors")
        options.check(self.card, late=self.has_token_states)

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings:
        """Adds the prompt of the input type, tokenizes, and truncates.

        Args:
            texts: any number of texts; an empty one becomes its prompt and special tokens alone.
            input_type: see `EmbedOptions`.

        Raises:
            InputError: an unknown input type, a text that is no valid Unicode string, or one that has no token at all.
        """
        check_strings(texts)
        return tokenize(self.tokenizer, self.card, texts, EmbedOptions(input_type=input_type))

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Each text's tokens, untruncated and without a prompt, for people who want to see them.

        Raises:
            InputError: a text that is no valid Unicode string.
        """
        return self.tokenizer.describe(texts, special=special)

    def encodings_from_ids(self, rows: Sequence[Sequence[int]]) -> Encodings:
        """Takes token ids that the caller made, special tokens included, and truncates them.

        Raises:
            InputError: an empty row, an id outside the vocabulary, or one that is no whole number.
        """
        size = self.tokenizer.vocabulary_size
        arrays = [np.asarray(row) for row in rows]
        for index, ids in enumerate(arrays):
            if not ids.size:
                raise InputError(f"row {index} of token ids is empty: it needs at least one id")
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise InputError(f"row {index} of token ids holds something else than whole numbers below 2^63")
            for token in (int(ids.min()), int(ids.max())):
                if not 0 <= token < size:
                    raise InputError(f"row {index} holds the token id {token}; the vocabulary has ids 0 to {size - 1}")
        return self.tokenizer.truncate([ids.astype(np.int32) for ids in arrays])

    def prepare(
        self, texts: Sequence[str], options: EmbedOptions, promised: dict[bytes, Promise] | None = None
    ) -> Task:
        """Texts to rows that must be computed; the task makes embeddings of their values.

        Args:
            texts: any number; duplicates and texts that the cache knows are not computed.
            options: they were checked.
            promised: see `tasks.prepare`.

        Raises:
            InputError: a text that is no valid Unicode string, or one that has no token at all.
        """
        task = prepare(self.tokenizer, self.card, self.cache, texts, options, promised)
        return self._in_half(task, options)

    def prepare_ids(self, encodings: Encodings, options: EmbedOptions) -> Task:
        """The same for token ids, which have no prompt and are never split."""
        made = Embeddings(np.zeros((0, 0), np.float32), encodings.lengths, encodings.dropped)
        task = Task(
            encodings,
            None,
            lambda values: finish(Embeddings(values, made.tokens, made.dropped), None, self.card, options),
        )
        return self._in_half(task, options)

    def _in_half(self, task: Task, options: EmbedOptions) -> Task:
        """The task, its vectors cast by the device where half precision is wanted and nothing else is done to them."""
        if task.output is None and self._leaves_in_half(options):
            return replace(task, output=HALF_VECTORS)
        return task

    def _leaves_in_half(self, options: EmbedOptions) -> bool:
        untouched = options.dimensions in (None, self.dimension) and (self.card.normalize or not options.normalize)
        wanted = options.dtype == "float16" and untouched and not options.splits and not self.cache.enabled
        return wanted and any(info.name == HALF_VECTORS for info in self.variant.outputs)

    def prepare_output(self, texts: Sequence[str], options: EmbedOptions, query: str | None = None) -> Task:
        """Texts to what no embedder's vector is: scores with a query, sparse vectors, or token vectors, by the model's card;
        of an embedder, the states of its tokens.

        Args:
            texts: any number.
            options: input type and overflow; of pairs, `truncate` or `refuse`.
            query: what the texts are scored with; rerankers only.

        Raises:
            InputError: the model has no such output, or texts or options cannot be used.
        """
        return prepare_output(self, texts, options, query, states=self.has_token_states)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Computes one batch on the calling thread; see `Workers.run`."""
        return self._workers.run(batch, output)

    def compute(self, encodings: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Computes any number of texts on all workers, in the order given.

        Returns:
            float32, (n, dimension); for a model that gives token vectors, (tokens, dimension).
        """
        return self._workers.compute(encodings, output)

    def shorten(self, vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
        """Cuts vectors to one of the model's Matryoshka dimensions; see `output.shorten`."""
        return shorten(vectors, self.card, dimensions)

    def embed(
        self, texts: Sequence[str], options: EmbedOptions | None = None, **fields: Unpack[EmbedFields]
    ) -> Embeddings:
        """Return the vectors of texts.

        Args:
            texts: any number of texts, also none. An empty text has a vector: that of its prompt and special tokens.
            options: how the texts become vectors.
            fields: fields of `EmbedOptions` by name, instead of `options` or to change some of them.

        Raises:
            InputError: texts or options that cannot be used.
        """
        options = EmbedOptions(**fields) if options is None else options.replace(**fields)
        self.check(options)
        if options.splits:
            return self._embed_split(texts, options)
        if len(texts) > MANY_TEXTS and not self.cache.enabled:
            output = HALF_VECTORS if self._leaves_in_half(options) else None
            return embed_many(self._workers, self.tokenizer, self.card, texts, options, output)
        task = self.prepare(texts, options)
        embeddings: Embeddings = task.finish(self.compute(task.encodings, task.output))
        return embeddings

    def _embed_split(self, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
        return embed_split(self.compute, self.tokenizer, self.card, self.cache, texts, options)

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

    def stream(self, chunks: Iterable[Sequence[str]], options: EmbedOptions | None = None) -> Iterator[Embeddings]:
        """Embeds a long sequence of chunks with bounded memory: reading and tokenizing hide behind computing.

        While a chunk computes, the next one is read and tokenized, and its batches wait behind the first one's, so that no
        worker idles at a chunk's end. Three chunks are in memory at most; of texts that are split, one.

        Args:
            chunks: lists of texts; a few thousand texts each keep the batches well sorted.
            options: how they become vectors.

        Yields:
            One `Embeddings` a chunk, in order.
        """
        options = EmbedOptions() if options is None else options
        self.check(options)
        if options.splits:
            yield from (self._embed_split(texts, options) for texts in chunks)
            return
        promised: dict[bytes, Promise] = {}
        yield from compute_tasks(self._workers, (self.prepare(texts, options, promised) for texts in chunks))

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
        """Runs the canary on each session: the tokenizer must give its ids, and the graph its vectors; the worst counts."""
        canary = self._canary
        if not gives_tokens(self.tokenizer, self.card, canary):
            return CanaryResult(False, -1.0, float("inf"), "the tokenizer gives other ids than the canary's")
        results = [
            canary.judge(values, self.card.output, self.tolerance)
            for values in self._workers.by_session(canary.encodings)
        ]
        return min(results, key=lambda result: (result.passed, result.min_cosine))

    def close(self) -> None:
        """Waits for the batches under way and gives the memory back."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
