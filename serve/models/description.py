"""`ModelDescription`: description of a served model, which HTTP and Flight send to clients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fletcher.model_zoo.card import INPUT_TYPES, RAW, Output, Similarity
from fletcher.runtime.artifact.manifest import Proof
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.space.bounds import Bounds

__all__ = ["ModelDescription"]

#: Prefix of the sources of a card that are ids on the HuggingFace Hub.
HUB = "hf:"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Description of a model for clients.

    Attributes:
        name: name of the model in answers.
        names: all names of the model.
        dimension: length of a full vector.
        dimensions: all available lengths of a vector, the full one first.
        max_tokens: longest input in tokens.
        input_types: all input types of the model.
        normalized: True if the vectors have L2 norm 1.
        variant: name of the graph that runs.
        provider: execution provider that runs the graph.
        digest: hash of everything that decides the vectors.
        loaded: Unix time at which the model was loaded, in seconds.
        output: output of the model.
        version: label of this version.
        activation: function that turns the logits of a reranker into scores; None for other models.
        canary: origin of the canary: `verified`, `published` or `self-made`.
        proof: the same in words.
        similarity: function that the model's authors compare its vectors with; None if they name none.
        space: identifier of the space of its vectors.
        bounds: how far two vectors of the space may differ; None if nothing states it.
        further: outputs that the model gives besides `output`, also in the same request (BGE-M3).
        token_dimension: length of the vectors of tokens among them; 0 if there are none.
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
    canary: Proof = "self-made"
    proof: str = ""
    similarity: Similarity | None = None
    space: str = ""
    bounds: Bounds | None = None
    further: frozenset[Output] = frozenset()
    token_dimension: int = 0

    @classmethod
    def of(
        cls, info: ModelInfo, name: str | None = None, aliases: Sequence[str] = (), version: str = "1"
    ) -> ModelDescription:
        """Describe a loaded model.

        Args:
            info: the model.
            name: name of the model. Default: the name of its card.
            aliases: other names, in addition to those of the card and its ids on the hub.
            version: label of this version.
        """
        card = info.card
        hub_ids = [source.removeprefix(HUB) for source in card.sources if source.startswith(HUB)]
        return cls(
            name=name or card.name,
            names=frozenset([name or card.name, card.name, *card.aliases, *hub_ids, *aliases]),
            dimension=info.dimension,
            dimensions=tuple(dict.fromkeys([info.dimension, *card.matryoshka])),
            max_tokens=info.max_tokens,
            input_types=tuple(dict.fromkeys([*(card.tasks or (*INPUT_TYPES, *card.prompts)), RAW])),
            normalized=card.normalize,
            variant=info.variant,
            provider=info.provider,
            digest=info.digest,
            loaded=int(time.time()),
            output=card.output,
            version=version,
            activation=card.activation,
            canary=info.canary,
            proof=info.proof,
            similarity=card.similarity or None,
            space=info.space.id,
            bounds=info.bounds,
            further=frozenset(info.outputs[1:] if info.token_dimension else ()),
            token_dimension=info.token_dimension,
        )
