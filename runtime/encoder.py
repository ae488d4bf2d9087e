"""`Encoder`: a loaded artifact that reproduces its canary and turns texts into vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard, StaticQueries
from fletcher.model_zoo.card import Output as ModelOutput

from .artifact.folder import CANARY, QUERY_WEIGHTS, TOKENIZER, Artifact
from .artifact.manifest import HALF_VECTORS, TOKEN_STATES, TOKEN_WEIGHTS, Variant
from .artifact.outputs import ValueRows
from .artifact.pinned import PinnedFiles
from .bulk import MANY_TEXTS, compute_tasks, embed_many, embed_split
from .canary import Canary, CanaryResult, gives_tokens, read_canary
from .closing import Closing
from .encodings import Embeddings, Encodings
from .errors import ArtifactError, CanaryError
from .inputs import Inputs, Pairs, Requested, Texts
from .loading import Loaded, load_parts
from .model_info import ModelInfo, VariantInfo, require_output
from .options.embed import EmbedFields, EmbedOptions
from .options.load import LoadFields, LoadOptions
from .origin.digest import check_digest
from .origin.signature import verify_signature
from .origin.tolerances import check_tolerance
from .origin.zoo import check_zoo
from .providers.selection import check_provider, choose_variant, choose_variants
from .remote.locate import Located, locate
from .session.counters import EncoderMetrics
from .space.bounds import Distance, bounds_of
from .space.space import space_of
from .tasks.duplicates import Promise, VectorCache
from .tasks.further_outputs import FURTHER, ORDER, TextOutputs
from .tasks.heads import Scores, SparseEmbeddings, TokenEmbeddings, compute_sparse
from .tasks.preparer import Preparer
from .tasks.static_queries import read_query_weights
from .tasks.task import Task, tokenize
from .tokenizing.token_details import TextToken

__all__ = ["Encoder"]

logger = logging.getLogger("fletcher.runtime.encoder")

PLAIN = EmbedOptions()


class Encoder(Closing):
    """A loaded model that turns texts into vectors. Safe to use from several threads; a context manager that closes it.

    Attributes:
        artifact: the artifact's folder.
        variant: the graph that runs.
        info: description of the model: dimension, provider, workers and more.
        tokenizer: the artifact's tokenizer.
        cache: cache of vectors of earlier calls.
        tolerance: allowed difference from the canary's vectors.
    """

    def __init__(self, artifact: Artifact, loaded: Loaded, *, cache_bytes: int = 0) -> None:
        """Make an encoder of opened parts. Most callers use `Encoder.load` instead."""
        self.artifact = artifact
        self.variant = variant = loaded.variant
        self.tokenizer = loaded.tokenizer
        self.tolerance = loaded.tolerance
        self._workers = loaded.workers
        self._canary = read_canary(artifact.canary_file)
        info = _describe(artifact, loaded, caches=cache_bytes > 0)
        identity = f"{artifact.digest} {variant.name} {info.provider}"
        self.cache = VectorCache(identity, cache_bytes)
        weights = read_query_weights(artifact.path / QUERY_WEIGHTS) if info.query_weights else None
        self._preparer = Preparer(self.tokenizer, info, self.cache, weights)
        self._files: PinnedFiles | None = None
        self._located: Located | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        options: LoadOptions | None = None,
        **fields: Unpack[LoadFields],
    ) -> Encoder:
        """Open an artifact, and check that its files are unchanged and that its canary passes.

        Args:
            path: the artifact's folder, or its URL (`s3://`, `gs://`, `az://`, `hf://`, `file://`), whose files are kept in
                the cache of this machine.
            options: options of loading and running; None means the defaults.
            fields: fields of `LoadOptions` by name. They replace the fields of `options`.

        Raises:
            OptionError: an option has a value that is not allowed; nothing has been loaded.
            ArtifactError: the folder is not an artifact, it is damaged, its graph has parts that Fletcher does not write, its
                manifest contradicts the zoo or widens a tolerance, or a file was changed while it was loaded.
            ChecksumError: a file differs from the manifest, or the artifact has another digest than the options say.
            SignatureError: the artifact has no signature of the identity that the options require.
            CanaryError: the session does not reproduce the reference vectors, or they are not the zoo's.
            MissingPackageError: the provider's package is not installed.
            ProviderError: the variant cannot run on this machine.
            InputError: the provider is unknown, or the memory limit is too small for one text of the longest length.
            SourceError: there is no artifact at the URL, it cannot be reached, or the cache cannot take it.
        """
        options = (options or LoadOptions()).replace(**fields)
        check_provider(options.provider)
        located = locate(path, digest=options.digest)
        try:
            encoder = cls._load_folder(located.folder, options)
        except BaseException:
            located.close()
            raise
        encoder._located = located
        return encoder

    @classmethod
    def _load_folder(cls, path: Path, options: LoadOptions) -> Encoder:
        """Open an artifact's folder, and check its files and its canary."""
        artifact = Artifact.open(path)
        check_digest(artifact, options.digest)
        files = artifact.pin_files()
        try:
            if options.require_signature is not None:
                verify_signature(artifact.path, options.require_signature)
            check_zoo(artifact)
            encoder = cls._load_preferred(artifact, options)
            try:
                files.require_unchanged()
            except BaseException:
                encoder.close()
                raise
        except BaseException:
            files.close()
            raise
        files.keep((TOKENIZER, CANARY, encoder.variant.file, encoder.variant.weights))
        encoder._files = files
        return encoder

    @classmethod
    def _load_preferred(cls, artifact: Artifact, options: LoadOptions) -> Encoder:
        """Open the preferred variant, or another one if the canary of the first does not pass."""
        variants = choose_variants(artifact, options.variant, options.provider, options.precision)
        if len(variants) == 1:
            return cls._load(artifact, variants[0], options)
        preferred, other = variants
        bound = f"cosine {preferred.tolerance.min_cosine:g}"
        note = (
            f"; {preferred.precision} is preferred here, and its canary passed ({bound}): --precision {other.precision}"
        )
        try:
            return cls._load(artifact, preferred, options, f"{note} takes another one")
        except CanaryError as error:
            logger.warning("variant skipped", extra={"fields": {"variant": preferred.name, "reason": str(error)}})
        note = f"; {preferred.precision} was not taken, because its canary does not pass ({bound})"
        return cls._load(artifact, other, options, note)

    @classmethod
    def _load(cls, artifact: Artifact, variant: Variant, options: LoadOptions, note: str = "") -> Encoder:
        """Open a variant, and check its canary."""
        if options.min_cosine is None:
            check_tolerance(artifact, variant)
        encoder = cls(artifact, load_parts(artifact, variant, options, note), cache_bytes=options.cache_bytes)
        try:
            encoder._note_canary(encoder.require_canary())
        except BaseException:
            encoder.close()
            raise
        return encoder

    def _note_canary(self, result: CanaryResult) -> None:
        """Add the distance of this session's canary from the reference to the model's bounds."""
        info = self.info
        if info.bounds is None:
            return
        session = Distance(
            min_cosine=self.tolerance.min_cosine,
            max_abs=self.tolerance.max_abs,
            measured_cosine=result.min_cosine,
            measured_abs=result.max_abs,
            measured_on=f"the canary on {info.provider}, against its reference",
        )
        bounds = msgspec.structs.replace(info.bounds, session=session)
        self._preparer.info = msgspec.structs.replace(info, bounds=bounds)

    @classmethod
    def open(cls, artifact: Artifact, options: LoadOptions | None = None, **fields: Unpack[LoadFields]) -> Encoder:
        """Open an artifact without checking its files and its canary, for a caller that has just written it.

        Args:
            artifact: the opened artifact folder.
            options: as in `load`, but the default provider is `mlas`, so that nothing is measured.
            fields: as in `load`.

        Raises:
            FletcherError: as in `load`, except for the errors of the checks.
        """
        options = (options or LoadOptions(provider="mlas")).replace(**fields)
        variant = choose_variant(artifact, options.variant, options.provider, options.precision)
        return cls(artifact, load_parts(artifact, variant, options), cache_bytes=options.cache_bytes)

    @property
    def info(self) -> ModelInfo:
        """Return the model's description: dimension, provider, workers and the rest."""
        return self._preparer.info

    @property
    def card(self) -> ModelCard:
        """Return the model's card."""
        return self.info.card

    @property
    def dimension(self) -> int:
        """Return the length of a full vector, the number of scores per pair, or the vocabulary size of sparse vectors."""
        return self.info.dimension

    def reference_canary(self) -> Canary:
        """Return the texts and vectors that the session must reproduce."""
        return self._canary

    def metrics(self) -> EncoderMetrics:
        """Return the counters of the tokenizer, the cache and the devices."""
        stats, cache, session = self.tokenizer.stats, self.cache, self._workers.session
        counters = {
            "tokenizer_seconds": ("Seconds inside the tokenizer, over all threads", lambda: stats.seconds),
            "tokenizer_texts": ("Texts tokenized", lambda: stats.texts),
            "tokenizer_tokens": ("Tokens produced, including those that truncation cut", lambda: stats.tokens),
            "tokenizer_cache_hits": ("Texts whose tokens were in the cache", lambda: stats.cache_hits),
            "tokenizer_cache_misses": ("Texts whose tokens were not in the cache", lambda: stats.cache_misses),
            "vector_cache_hits": ("Texts whose vectors were in the cache", lambda: cache.hits),
            "vector_cache_misses": ("Texts whose vectors were not in the cache", lambda: cache.misses),
        }
        return EncoderMetrics(counters, session.metrics())

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings:
        """Add the prompt of the input type, tokenize, and truncate.

        Args:
            texts: any number of texts; an empty text becomes only its prompt and special tokens.
            input_type: see `EmbedOptions`.

        Raises:
            InputError: the input type is unknown, or a text is not a valid Unicode string or has no token at all.
        """
        return tokenize(self.tokenizer, self.card, Texts.of(texts).texts, EmbedOptions(input_type=input_type))

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Return each text's tokens for display, without a prompt and without truncation.

        Args:
            texts: any number of texts.
            special: whether the tokens that the tokenizer adds are included.

        Raises:
            InputError: a text is not a valid Unicode string.
        """
        return self.tokenizer.describe(texts, special=special)

    def prepare(
        self,
        inputs: Inputs,
        options: EmbedOptions = PLAIN,
        output: Requested = "vectors",
        promised: dict[bytes, Promise] | None = None,
        *,
        salt: str = "",
    ) -> Task:
        """Tokenize a request into a task: the rows to compute, and the function that makes the answer of their values.

        Args:
            inputs: texts, token ids, or pairs for `scores`. Duplicates and cached texts are not computed.
            options: options of embedding. For vectors of texts, `info.check` must have accepted them.
            output: `vectors`, or another output that `info.outputs` lists. The `token_vectors` of an embedder are the states
                of its tokens, if it has no further outputs. Where `info.token_dimension` is not 0, several outputs.
            promised: vectors that earlier tasks of the same job will compute; see `prepare_vectors`.
            salt: cached vectors are found only with the salt with which they were kept.

        Returns:
            A task whose `finish` gives `Embeddings`, `Scores`, `SparseEmbeddings`, `TokenEmbeddings` or `TextOutputs`.

        Raises:
            InputError: the model has no such output, or inputs or options cannot be used.
        """
        return self._preparer.prepare(inputs, options, output, promised, salt=salt)

    def prepare_rows(
        self, encodings: Encodings, output: str | None = None, *, rows: ValueRows | None = None, salt: str = ""
    ) -> Task:
        """Take rows that were tokenized elsewhere; see `Preparer.prepare_rows`."""
        return self._preparer.prepare_rows(encodings, output, rows=rows, salt=salt)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch on the calling thread; see `Workers.run`."""
        return self._workers.run(batch, output)

    def compute(self, encodings: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Compute any number of tokenized texts on all workers.

        Returns:
            Values in the order of the texts, float32, (n, dimension); for an output of token vectors, (tokens, dimension).
        """
        return self._workers.compute(encodings, output)

    def embed(
        self, texts: Sequence[str], options: EmbedOptions | None = None, **fields: Unpack[EmbedFields]
    ) -> Embeddings:
        """Return the vectors of texts.

        Args:
            texts: any number of texts, including zero. The vector of an empty text is that of its prompt and special tokens.
            options: options of embedding; None means the defaults.
            fields: fields of `EmbedOptions` by name. They replace the fields of `options`.

        Raises:
            InputError: texts or options cannot be used.
        """
        options = EmbedOptions(**fields) if options is None else options.replace(**fields)
        self.info.check(options)
        inputs = Texts.of(texts)
        if options.splits:
            return self._embed_split(inputs.texts, options)
        if len(texts) > MANY_TEXTS and not self.cache.enabled and not options.reads_static(self.card):
            output = HALF_VECTORS if self._preparer.leaves_in_half(options) else None
            return embed_many(self._workers, self.tokenizer, self.card, inputs.texts, options, output)
        task = self.prepare(inputs, options)
        embeddings: Embeddings = task.finish(self.compute(task.encodings, task.output))
        return embeddings

    def _embed_split(self, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
        return embed_split(self.compute, self.tokenizer, self.card, self.cache, texts, options)

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Return the scores of documents for a query, in the order of the documents. Only rerankers have scores.

        Raises:
            InputError: the model is not a reranker, or a text is not a valid Unicode string.
        """
        require_output(self.card, "scores")
        task = self.prepare(Pairs(query, Texts.of(documents).texts), output="scores")
        scores: Scores = task.finish(self.compute(task.encodings))
        return scores

    def embed_sparse(self, texts: Sequence[str], *, input_type: str | None = None) -> SparseEmbeddings:
        """Return weights of the vocabulary's tokens for each text. SPLADE models and BGE-M3 have them.

        Raises:
            InputError: the model has another output, or texts or input type cannot be used.
        """
        self.info.require("sparse")
        task = self.prepare(Texts.of(texts), EmbedOptions(input_type=input_type), "sparse")
        if self.card.output != "sparse" or not len(task.encodings):
            sparse: SparseEmbeddings = task.finish(self.compute(task.encodings, task.output))
            return sparse
        return compute_sparse(self.compute, task.encodings, self.card.dimension)

    def embed_tokens(self, texts: Sequence[str], *, input_type: str | None = None) -> TokenEmbeddings:
        """Return a vector for each token of each text. ColBERT models and BGE-M3 have them.

        Args:
            texts: any number of texts.
            input_type: `query` if the texts are queries; with any other value they are documents.

        Raises:
            InputError: the model has another output, or texts or input type cannot be used.
        """
        self.info.require("token_vectors")
        task = self.prepare(Texts.of(texts), EmbedOptions(input_type=input_type), "token_vectors")
        embeddings: TokenEmbeddings = task.finish(self.compute(task.encodings, task.output))
        return embeddings

    def embed_outputs(
        self,
        texts: Sequence[str],
        outputs: Sequence[ModelOutput] = ORDER,
        options: EmbedOptions | None = None,
        **fields: Unpack[EmbedFields],
    ) -> TextOutputs:
        """Return several outputs of one pass. Only models with further outputs (BGE-M3) have them.

        Args:
            texts: any number of texts.
            outputs: any of `vectors`, `sparse` and `token_vectors`.
            options: options of embedding; None means the defaults.
            fields: fields of `EmbedOptions` by name. They replace the fields of `options`.

        Raises:
            InputError: the model does not have one of the outputs, or texts or options cannot be used.
        """
        options = EmbedOptions(**fields) if options is None else options.replace(**fields)
        self.info.check(options)
        task = self.prepare(Texts.of(texts), options, tuple(outputs))
        found: TextOutputs = task.finish(self.compute(task.encodings, task.output))
        return found

    def stream(self, chunks: Iterable[Sequence[str]], options: EmbedOptions | None = None) -> Iterator[Embeddings]:
        """Embed a long sequence of chunks with bounded memory.

        While a chunk is computed, the next one is read and tokenized. Its batches wait in the queue behind those of the first
        chunk, so that no worker is idle between two chunks. At most three chunks are in memory, or one if texts are split.

        Args:
            chunks: lists of texts. With a few thousand texts per chunk, a batch has texts of similar length.
            options: options of embedding; None means the defaults.

        Yields:
            One `Embeddings` per chunk, in order.

        Raises:
            InputError: texts or options cannot be used.
        """
        options = EmbedOptions() if options is None else options
        self.info.check(options)
        if options.splits:
            yield from (self._embed_split(Texts.of(texts).texts, options) for texts in chunks)
            return
        promised: dict[bytes, Promise] = {}
        tasks = (self.prepare(Texts.of(texts), options, promised=promised) for texts in chunks)
        yield from compute_tasks(self._workers, tasks)

    def require_canary(self) -> CanaryResult:
        """Run the canary and raise an error if it fails.

        Raises:
            CanaryError: the session does not reproduce the reference vectors.
        """
        result = self.check_canary()
        if not result.passed:
            raise CanaryError(
                f"{self.artifact.path} ({self.variant.name} on {self.info.provider}) does not reproduce its canary: "
                f"{result.reason}. It would serve wrong vectors, so it is not loaded: convert the checkpoint again, "
                "or choose another variant"
            )
        return result

    def check_canary(self) -> CanaryResult:
        """Run the canary on each session and return the worst result.

        The tokenizer must give the canary's token ids, and each session its vectors.
        """
        canary = self._canary
        if not gives_tokens(self.tokenizer, self.card, canary):
            return CanaryResult(False, -1.0, float("inf"), "the tokenizer gives other ids than the canary's")
        names = (None, *canary.further)
        sessions = zip(*(self._workers.by_session(canary.encodings, name) for name in names), strict=True)
        results = [
            canary.judge_all(dict(zip(names, values, strict=True)).__getitem__, self.card.output, self.tolerance)
            for values in sessions
        ]
        return min(results, key=lambda result: (result.passed, result.min_cosine))

    def changed_files(self) -> str:
        """Return the reason why the artifact's files are not those that were loaded; empty if they are, or were not checked.

        It takes microseconds, unless a file changed in place: then the file is hashed. A file that was replaced or removed
        has no effect on a loaded model.
        """
        return "" if self._files is None else self._files.changed()

    def close(self) -> None:
        """Wait for the batches that are being computed, and release the memory."""
        self._workers.close()
        if self._files is not None:
            self._files.close()
        if self._located is not None:
            self._located.close()


def _describe(artifact: Artifact, loaded: Loaded, *, caches: bool) -> ModelInfo:
    card = artifact.manifest.card
    outputs = {info.name: info for info in loaded.variant.outputs}
    others: tuple[ModelOutput, ...] = ()
    token_dimension = 0
    if card.output == "vectors" and TOKEN_WEIGHTS in outputs:
        others, token_dimension = FURTHER, int(outputs["token_vectors"].shape[-1])
    elif card.output == "vectors" and TOKEN_STATES in outputs:
        others = ("token_vectors",)
    content, files = artifact.manifest.content, artifact.manifest.files
    has_queries = isinstance(card.static_queries, StaticQueries)
    if has_queries and QUERY_WEIGHTS not in files:
        raise ArtifactError(
            f"{artifact.path} lacks {QUERY_WEIGHTS}, which its card needs: convert the checkpoint again"
        )
    return ModelInfo(
        card=card,
        digest=artifact.digest,
        variant=loaded.variant.name,
        provider=loaded.workers.session.provider,
        provider_name=loaded.provider,
        dimension=card.dimension,
        max_tokens=card.max_tokens,
        outputs=(card.output, *others),
        token_dimension=token_dimension,
        token_heads=content.token_heads if content is not None else "",
        query_weights=files[QUERY_WEIGHTS].sha256 if has_queries else "",
        workers=loaded.workers.count,
        token_budget=loaded.workers.token_budget,
        devices=loaded.workers.session.devices,
        small_tokens=loaded.workers.session.small_tokens,
        half_vectors=HALF_VECTORS in outputs and not caches,
        tokenizer=artifact.manifest.files[TOKENIZER].sha256,
        reason=loaded.reason,
        canary=artifact.manifest.status,
        proof=artifact.manifest.proof,
        fallback=loaded.fallback,
        space=space_of(artifact, loaded.variant, loaded.tokenizer.side, loaded.tolerance),
        bounds=bounds_of(
            loaded.variant,
            loaded.tolerance,
            exact=loaded.exact,
            texts=0 if artifact.manifest.verified is None else artifact.manifest.verified.texts,
        ),
        calibration=artifact.manifest.calibration,
        variants=tuple(
            VariantInfo(
                name=variant.name,
                target=variant.target,
                precision=variant.precision,
                tolerance=variant.tolerance,
                measured=variant.measured,
                canary=variant.canary,
                batch_dependent=variant.batch_dependent,
            )
            for variant in artifact.manifest.variants
        ),
    )
