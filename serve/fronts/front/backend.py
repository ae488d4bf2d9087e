"""`FrontBackend`: the part of a model that a front has: its tokenizer and its description, and no session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.canary import Canary, CanaryResult
from fletcher.runtime.errors import ProviderError
from fletcher.runtime.inputs import Inputs, Requested
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.session.counters import EncoderMetrics
from fletcher.runtime.tasks.duplicates import VectorCache
from fletcher.runtime.tasks.preparer import Preparer
from fletcher.runtime.tasks.static_queries import read_query_weights
from fletcher.runtime.tasks.task import Task
from fletcher.runtime.tokenizing.token_details import TextToken
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from ..channel.wire import CatalogEntry

__all__ = ["FrontBackend"]


class FrontBackend:
    """A `Backend` without a session. Safe to use from several threads.

    Attributes:
        entry: the version's entry in the catalog.
        info: description of the model that the engine process has loaded.
    """

    def __init__(self, entry: CatalogEntry) -> None:
        """Open the tokenizer of a version.

        Raises:
            ArtifactError: the tokenizer cannot be read.
        """
        self.entry = entry
        self.info: ModelInfo = entry.info
        tokenizer = Tokenizer(Path(entry.tokenizer), entry.info.max_tokens, strip=entry.info.space.strips_texts)
        weights = read_query_weights(Path(entry.query_weights)) if entry.query_weights else None
        self._preparer = Preparer(tokenizer, entry.info, VectorCache("", 0), weights)

    def prepare(self, inputs: Inputs, options: EmbedOptions, output: Requested, /, *, salt: str = "") -> Task:
        """Tokenize a request; see `Backend.prepare`."""
        return self._preparer.prepare(inputs, options, output)

    def prepare_rows(
        self, encodings: Encodings, output: str | None, /, *, rows: ValueRows | None = None, salt: str = ""
    ) -> Task:
        """Raise an error: rows are the engine process's.

        Raises:
            ProviderError: always.
        """
        raise _no_session()

    def run(self, batch: Encodings, output: str | None, /) -> NDArray[np.float32]:
        """Raise an error: a front has no session.

        Raises:
            ProviderError: always.
        """
        raise _no_session()

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Return the tokens of each text, untruncated and without a prompt."""
        return self._preparer.tokenizer.describe(texts, special=special)

    def check_canary(self) -> CanaryResult:
        """Raise an error: a front has no session.

        Raises:
            ProviderError: always.
        """
        raise _no_session()

    def changed_files(self) -> str:
        """Return nothing: the engine process checks the files."""
        return ""

    def reference_canary(self) -> Canary:
        """Raise an error: the engine process has the artifact.

        Raises:
            ProviderError: always.
        """
        raise _no_session()

    def metrics(self) -> EncoderMetrics:
        """Return the counts of the tokenizer."""
        stats = self._preparer.tokenizer.stats
        counters: Mapping[str, tuple[str, Callable[[], float]]] = {
            "tokenizer_seconds": ("Seconds inside the tokenizer, over all threads", lambda: stats.seconds),
            "tokenizer_texts": ("Texts tokenized", lambda: stats.texts),
            "tokenizer_tokens": ("Tokens made, those that truncation cut included", lambda: stats.tokens),
            "tokenizer_cache_hits": ("Texts whose tokens were known", lambda: stats.cache_hits),
            "tokenizer_cache_misses": ("Texts whose tokens were looked for in vain", lambda: stats.cache_misses),
        }
        return EncoderMetrics(counters, ())


def _no_session() -> ProviderError:
    return ProviderError("a front process has a tokenizer and no session: the engine process computes")
