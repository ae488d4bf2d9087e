"""What the engine and its doors need of an encoder. `fletcher.runtime.Encoder` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Encodings

__all__ = ["Backend", "Canary", "NamedVariant", "Provenance"]


class Provenance(Protocol):
    """Where vectors come from."""

    @property
    def digest(self) -> str:
        """What the vectors depend on, as hex."""
        ...


class NamedVariant(Protocol):
    """The graph that runs."""

    @property
    def name(self) -> str: ...


class Canary(Protocol):
    """What a session made of its canary."""

    @property
    def passed(self) -> bool: ...

    @property
    def reason(self) -> str:
        """Empty, or what was out of tolerance."""
        ...


class Backend(Protocol):
    """A loaded model. Safe to call from several threads at once."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def artifact(self) -> Provenance: ...

    @property
    def variant(self) -> NamedVariant: ...

    @property
    def provider(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def workers(self) -> int:
        """Threads that may compute batches at once."""
        ...

    @property
    def token_budget(self) -> int:
        """Tokens that a batch should hold."""
        ...

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings: ...

    def encodings_from_ids(self, rows: Sequence[Sequence[int]]) -> Encodings: ...

    def run(self, batch: Encodings, /) -> NDArray[np.float32]:
        """One batch on the calling thread: float32, (n, dimension)."""
        ...

    def shorten(self, vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]: ...

    def check_canary(self) -> Canary: ...
