"""`ModelDescription`: description of a served model under its names, as HTTP and Flight answer with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fletcher.model_zoo.card import INPUT_TYPES, RAW, Output
from fletcher.runtime.model_info import ModelInfo

__all__ = ["ModelDescription"]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as clients see it.

    Attributes:
        name: its name in answers.
        names: every name that it answers to.
        dimension: length of a full vector.
        dimensions: every length that it offers, the full one first.
        max_tokens: longest input.
        input_types: every input type that it understands.
        normalized: whether its vectors have L2 norm 1.
        variant: name of the graph that runs.
        provider: execution provider that it runs on.
        digest: hash of everything that decides the vectors.
        loaded: Unix time of its load.
        output: output that the model gives.
        version: this version's label.
        activation: function that turned a reranker's logits into scores.
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
    output: Output = "vectors"
    version: str = "1"
    activation: str | None = None

    @classmethod
    def of(
        cls, info: ModelInfo, name: str | None = None, aliases: Sequence[str] = (), version: str = "1"
    ) -> ModelDescription:
        """Describe a loaded model.

        Args:
            info: the model.
            name: its name; None is its card's name.
            aliases: other names, besides the card's.
            version: this version's label.
        """
        card = info.card
        return cls(
            name=name or card.name,
            names=frozenset([name or card.name, card.name, *card.aliases, *aliases]),
            dimension=info.dimension,
            dimensions=tuple(dict.fromkeys([info.dimension, *card.matryoshka])),
            max_tokens=info.max_tokens,
            input_types=tuple(dict.fromkeys([*INPUT_TYPES, *card.prompts, RAW])),
            normalized=card.normalize,
            variant=info.variant,
            provider=info.provider,
            digest=info.digest,
            loaded=int(time.time()),
            output=card.output,
            version=version,
            activation=card.activation,
        )
