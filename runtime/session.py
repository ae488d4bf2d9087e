"""What every execution provider looks like to the rest of the runtime, and how one is opened."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .encodings import Encodings
from .errors import ProviderError
from .manifest import Variant

__all__ = ["Session", "open_session"]


class Session(Protocol):
    """A graph that is loaded and runs. Safe to call from several threads at once."""

    @property
    def provider(self) -> str:
        """Where it really runs, as the provider's own name."""
        ...

    def run(self, batch: Encodings) -> NDArray[np.float32]:
        """Computes one batch on the calling thread.

        Args:
            batch: ragged token ids of at least one text.

        Returns:
            Vectors, float32, (n, dimension), in the order of the batch.
        """
        ...

    def close(self) -> None:
        """Gives the memory back; the session is unusable afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(artifact: Artifact, variant: Variant, *, threads: int) -> Session:
    """Loads a variant on the provider of its target.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        threads: processor threads inside one run.

    Raises:
        MissingPackageError: the provider's package is not installed.
        ProviderError: no provider here runs this target, or it refuses the graph.
        ArtifactError: the graph file cannot be loaded.
    """
    if variant.target == "cpu":
        from .mlas import MlasSession

        return MlasSession(Path(artifact.path / variant.file), threads=threads)
    raise ProviderError(
        f"the variant {variant.name} is for the target {variant.target}, which this Fletcher does not run: "
        "load a cpu variant"
    )
