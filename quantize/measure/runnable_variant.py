"""`RunnableVariant`: a graph of an artifact and the provider that runs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning.trial import Trial

__all__ = ["RunnableVariant"]


@dataclass(frozen=True, slots=True)
class RunnableVariant:
    """`RunnableVariant`: a graph of an artifact and the provider that runs it.

    Attributes:
        artifact: the artifact.
        variant: one of its graphs.
        provider: name of the provider.
    """

    artifact: Artifact
    variant: Variant
    provider: str

    @property
    def num_bytes(self) -> int:
        """Size of the graph and its weights."""
        files = self.artifact.manifest.files
        return sum(files[name].size for name in {self.variant.file, self.variant.weights})

    def open(self) -> Trial:
        """Open a session with one worker per processor, which is an encoder's default.

        Raises:
            FletcherError: the session cannot be opened; see `open_session`.
        """
        machine = this_machine()
        layout = WorkerLayout(self.provider, len(machine.processors), 1, TOKEN_BUDGET)
        return Trial(self.artifact, self.variant, layout, machine)

    def compute(self, texts: Encodings) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, (n, dimension)."""
        with self.open() as trial:
            return trial.compute(texts)
