"""What a server serves: the model under its names, in the words that both doors answer with."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fletcher.model_zoo.card import INPUT_TYPES, RAW

from .backend import Backend
from .errors import UnknownModelError

__all__ = ["ServedModel"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients see it.

    Attributes:
        name: what it is called in answers.
        names: every name that it answers to.
        dimension: length of a full vector.
        dimensions: every length that it offers, the full one first.
        max_tokens: longest input.
        input_types: every input type that it understands.
        normalized: whether its vectors have L2 norm 1.
        variant: the graph that runs.
        provider: where it runs.
        digest: what the vectors depend on.
        loaded: Unix time.
    """

    name: str
    names: frozenset[str]
    dimension: int
    dimensions: tuple[int, ...]
    max_tokens: int
    input_types: tuple[str, ...]
    normalized: bool
    variant: str
    provider: str
    digest: str
    loaded: int

    @classmethod
    def of(cls, encoder: Backend, name: str | None = None) -> ServedModel:
        """Describes a loaded encoder.

        Args:
            encoder: the model.
            name: what to call it; None is its card's name.
        """
        card = encoder.card
        return cls(
            name=name or card.name,
            names=frozenset([name or card.name, card.name, *card.aliases]),
            dimension=encoder.dimension,
            dimensions=tuple(dict.fromkeys([encoder.dimension, *card.matryoshka])),
            max_tokens=encoder.max_tokens,
            input_types=tuple(dict.fromkeys([*INPUT_TYPES, *card.prompts, RAW])),
            normalized=card.normalize,
            variant=encoder.variant.name,
            provider=encoder.provider,
            digest=encoder.artifact.digest,
            loaded=int(time.time()),
        )

    def check_name(self, name: str) -> None:
        """
        Raises:
            UnknownModelError: the model has another name.
        """
        if name not in self.names:
            raise UnknownModelError(f"the model {name!r} is not served here; this server has {self.name!r}")
