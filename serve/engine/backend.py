"""`Backend`: protocol of a loaded model, as the engine uses it. `fletcher.runtime.Encoder` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.canary import Canary, CanaryResult
from fletcher.runtime.inputs import Inputs, Requested
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.session.counters import EncoderMetrics
from fletcher.runtime.tasks.task import Task
from fletcher.runtime.tokenizing.token_details import TextToken

__all__ = ["Backend", "close_backend"]


class Backend(Protocol):
    """A loaded model. Safe to call from several threads at once."""

    @property
    def info(self) -> ModelInfo:
        """Return the model's description."""
        ...

    def prepare(self, inputs: Inputs, options: EmbedOptions, output: Requested, /, *, salt: str = "") -> Task:
        """Tokenize a request whose options `info.check` accepted.

        Args:
            inputs: texts, token ids or pairs.
            options: options of embedding.
            output: the requested output, or several of one pass.
            salt: cached vectors are found only with the salt with which they were kept.

        Raises:
            InputError: the inputs or options cannot be used, or the model does not give this output.
        """
        ...

    def prepare_rows(
        self, encodings: Encodings, output: str | None, /, *, rows: ValueRows | None = None, salt: str = ""
    ) -> Task:
        """Take rows that another process has tokenized.

        Args:
            encodings: the rows, at least one.
            output: name of the graph's output; None is the first.
            rows: rows of values that a text has; None is one row.
            salt: as for `prepare`.

        Returns:
            A task whose `finish` gives the values of the rows.
        """
        ...

    def run(self, batch: Encodings, output: str | None, /) -> NDArray[np.float32]:
        """Compute one batch on the calling thread.

        Args:
            batch: rows of one task, or of several tasks with the same output.
            output: name of the graph's output; None is the first output.

        Returns:
            float32, (rows, dimension), or (tokens, dimension) for an output with a row per token.

        Raises:
            ProviderError: the device failed, or a value is NaN or infinity.
        """
        ...

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Return the tokens of each text, untruncated and without a prompt."""
        ...

    def check_canary(self) -> CanaryResult:
        """Compare the session's vectors with the canary's."""
        ...

    def changed_files(self) -> str:
        """Return the reason why the artifact's files are not those that were loaded; empty if they are."""
        ...

    def reference_canary(self) -> Canary:
        """Return the texts and vectors that the session must reproduce."""
        ...

    def metrics(self) -> EncoderMetrics:
        """Return the counts that the model keeps."""
        ...


def close_backend(backend: Backend) -> None:
    """Close a backend, if it can be closed."""
    if (close := getattr(backend, "close", None)) is not None:
        close()
