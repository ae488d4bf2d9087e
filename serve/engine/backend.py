"""What the engine and its doors need of an encoder. `fletcher.runtime.Encoder` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Encodings
from fletcher.runtime.embed_options import EmbedOptions
from fletcher.runtime.session.counters import DeviceMetric
from fletcher.runtime.tasks.task import Task
from fletcher.runtime.tokenizing.token_details import TextToken

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
    def provider(self) -> str:
        """Title of the provider that really runs it, for people."""
        ...

    @property
    def provider_name(self) -> str:
        """Name of the provider that opened it, as options write it."""
        ...

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

    @property
    def has_token_states(self) -> bool:
        """Whether it gives the states of single tokens, too."""
        ...

    @property
    def fallback(self) -> str | None:
        """Why another provider runs than the one that was wanted, or None."""
        ...

    @property
    def reason(self) -> str:
        """Why this provider, these workers and this token budget."""
        ...

    def counters(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """What it counts by itself: by name, what it is, and its value now."""
        ...

    def device_metrics(self) -> Sequence[DeviceMetric]:
        """What each of its devices counts by itself."""
        ...

    def check(self, options: EmbedOptions) -> None:
        """Refuses options that the model does not have."""
        ...

    def prepare(self, texts: Sequence[str], options: EmbedOptions) -> Task:
        """Texts to rows that must be computed."""
        ...

    def prepare_ids(self, encodings: Encodings, options: EmbedOptions) -> Task:
        """Token ids to the same."""
        ...

    def prepare_output(self, texts: Sequence[str], options: EmbedOptions, query: str | None = None) -> Task:
        """Texts to scores, sparse vectors or token vectors."""
        ...

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Each text's tokens, untruncated."""
        ...

    def encodings_from_ids(self, rows: Sequence[Sequence[int]]) -> Encodings: ...

    def run(self, batch: Encodings, output: str | None, /) -> NDArray[np.float32]:
        """One batch on the calling thread: float32, a row a text; of the output that late chunking needs, a row a token."""
        ...

    def check_canary(self) -> Canary: ...
