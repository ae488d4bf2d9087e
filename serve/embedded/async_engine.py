"""`AsyncEngine`: models for programs with asyncio, with the server's queue and batches and without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fletcher.model_zoo.card import Output
from fletcher.runtime import Embeddings, Scores, SparseEmbeddings, TextOutputs, TokenEmbeddings
from fletcher.runtime.errors import DeadlineError, InputError, ServiceError
from fletcher.runtime.inputs import Pairs, Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.further_outputs import ORDER

from ..engine.backend import Backend
from ..engine.embed_request import PLAIN, EmbedRequest
from ..engine.terms import Priority, Terms
from ..models.registry import ANSWERED_BY, Models
from ..models.spec import ModelSpec
from ..models.version import Loader
from ..server_options import ServerOptions
from ..surroundings import Surroundings, load_encoder

__all__ = ["AsyncEngine"]


class AsyncEngine:
    """Models with the methods of `Encoder` as coroutines; an asynchronous context manager, open from `open` to `close`.

    Calls that wait at the same time are computed in common batches, in a fair order of their priorities and clients. A call
    that is cancelled is not computed, unless its batch has begun.

        async with AsyncEngine("minilm") as engine:
            embeddings = await engine.embed(["a text", "another"])
    """

    def __init__(
        self,
        models: str | Path | Backend | Sequence[ModelSpec],
        options: ServerOptions | None = None,
        *,
        load: Loader = load_encoder,
    ) -> None:
        """Prepare; nothing is loaded.

        Args:
            models: folder of an artifact, several models, or one loaded model, which the caller closes.
            options: limits of the queue and of a request; options about addresses, keys and logs do nothing.
            load: opens a model.
        """
        self._given = [ModelSpec(path=str(models))] if isinstance(models, str | Path) else models
        self._options = ServerOptions() if options is None else options
        self._load = load
        self._surroundings = Surroundings.open(self._options.replace(keys=None, otlp=None, longbow=None))
        self._models: Models | None = None

    @property
    def models(self) -> Models:
        """The models, for changes while the engine answers.

        Raises:
            ServiceError: the engine is not open.
        """
        if self._models is None:
            raise ServiceError("the engine is not open: use `async with AsyncEngine(...)`, or `await engine.open()`")
        return self._models

    async def open(self) -> None:
        """Load the models on another thread.

        Raises:
            FletcherError: a model cannot be loaded.
        """
        if self._models is None:
            opened = asyncio.get_running_loop().run_in_executor(
                None, self._surroundings.open_models, self._given, self._load
            )
            self._models = await opened

    async def close(self) -> bool:
        """Reject new calls, answer the open ones within `drain_seconds`, and close the models.

        Returns:
            True if every open call was answered in time.
        """
        models, self._models = self._models, None
        if models is None:
            return True
        return await asyncio.get_running_loop().run_in_executor(None, models.stop, self._options.drain_seconds)

    async def embed(
        self,
        texts: str | Sequence[str],
        options: EmbedOptions = PLAIN,
        *,
        model: str | None = None,
        priority: Priority = "normal",
        client: str = "",
        timeout: float | None = None,
    ) -> Embeddings:
        """Return the vectors of texts.

        Args:
            texts: one text, or several; at least one.
            options: options for embedding.
            model: name of the model. Default: the first one that gives vectors.
            priority: class in the queue.
            client: client in whose name the call waits; clients of one class take turns.
            timeout: seconds to wait for the answer. Default: no limit.

        Returns:
            One row for each text, also for a single one.

        Raises:
            OverloadedError: too much work waits; its `retry_after` has the seconds after which to try again.
            DeadlineError: the timeout passed.
            ServiceError: the engine is not open, or it is closing.
            FletcherError: as for `Encoder.embed`.
        """
        inputs = Texts((texts,) if isinstance(texts, str) else tuple(texts))
        request = EmbedRequest(inputs, options, "vectors", _terms(priority, client, timeout))
        embeddings: Embeddings = await self._ask(model, request, timeout)
        return embeddings

    async def score(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        priority: Priority = "normal",
        client: str = "",
        timeout: float | None = None,
    ) -> Scores:
        """Return the scores of documents for a query, by a reranker.

        Args:
            query: the query.
            documents: at least one document.
            model, priority, client, timeout: as for `embed`.

        Raises:
            FletcherError: as for `embed`.
        """
        request = EmbedRequest(
            Pairs(query, tuple(documents)), EmbedOptions(input_type="raw"), "scores", _terms(priority, client, timeout)
        )
        scores: Scores = await self._ask(model, request, timeout)
        return scores

    async def embed_sparse(
        self,
        texts: str | Sequence[str],
        *,
        input_type: str | None = None,
        model: str | None = None,
        priority: Priority = "normal",
        client: str = "",
        timeout: float | None = None,
    ) -> SparseEmbeddings:
        """Return the weights of the vocabulary's tokens for each text, by a SPLADE model.

        Args:
            texts: one text, or several; at least one.
            input_type: see `EmbedOptions`.
            model, priority, client, timeout: as for `embed`.

        Raises:
            FletcherError: as for `embed`.
        """
        request = _request(texts, input_type, "sparse", _terms(priority, client, timeout))
        embeddings: SparseEmbeddings = await self._ask(model, request, timeout)
        return embeddings

    async def embed_tokens(
        self,
        texts: str | Sequence[str],
        *,
        input_type: str | None = None,
        model: str | None = None,
        priority: Priority = "normal",
        client: str = "",
        timeout: float | None = None,
    ) -> TokenEmbeddings:
        """Return a vector for each token of each text, by a ColBERT model, or the states of an embedder's tokens.

        Args:
            texts: one text, or several; at least one.
            input_type: see `EmbedOptions`.
            model, priority, client, timeout: as for `embed`.

        Raises:
            FletcherError: as for `embed`.
        """
        request = _request(texts, input_type, "token_vectors", _terms(priority, client, timeout))
        embeddings: TokenEmbeddings = await self._ask(model, request, timeout)
        return embeddings

    async def embed_outputs(
        self,
        texts: str | Sequence[str],
        outputs: Sequence[Output] = ORDER,
        options: EmbedOptions = PLAIN,
        *,
        model: str | None = None,
        priority: Priority = "normal",
        client: str = "",
        timeout: float | None = None,
    ) -> TextOutputs:
        """Return several outputs of one pass, by BGE-M3.

        Args:
            texts: one text, or several; at least one.
            outputs: at least two of `vectors`, `sparse` and `token_vectors`.
            options: options for embedding.
            model, priority, client, timeout: as for `embed`.

        Raises:
            FletcherError: as for `embed`.
        """
        inputs = Texts((texts,) if isinstance(texts, str) else tuple(texts))
        requested = tuple(output for output in ORDER if output in outputs)
        if len(requested) < 2 or set(outputs) - set(ORDER):
            raise InputError(
                f"the outputs are {', '.join(outputs) or 'none'}; at least two of {', '.join(ORDER)} are needed"
            )
        request = EmbedRequest(inputs, options, requested, _terms(priority, client, timeout))
        found: TextOutputs = await self._ask(model, request, timeout)
        return found

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, name: str | None, request: EmbedRequest, timeout: float | None) -> Any:
        """Submit a request, and wait for its answer; the cancellation of this coroutine cancels the request."""
        models = self.models
        try:
            async with asyncio.timeout(timeout):
                while True:
                    version = models.pick(name, ANSWERED_BY[request.output])
                    future = models.submit(version, request)
                    if future is not None:
                        return await asyncio.wrap_future(future)
                    if not version.retired:
                        await asyncio.wrap_future(version.wake_soon())
        except TimeoutError:
            raise DeadlineError(f"the call's {timeout:g} s passed before it was answered") from None


def _request(texts: str | Sequence[str], input_type: str | None, output: Output, terms: Terms) -> EmbedRequest:
    inputs = Texts((texts,) if isinstance(texts, str) else tuple(texts))
    return EmbedRequest(inputs, EmbedOptions(input_type=input_type), output, terms)


def _terms(priority: Priority, client: str, timeout: float | None) -> Terms:
    return Terms(priority, client, None if timeout is None else time.monotonic() + timeout)
