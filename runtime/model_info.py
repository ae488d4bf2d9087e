"""`ModelInfo`: description of a loaded model, and the check of options against it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from fletcher.model_zoo.card import ModelCard, Output

from .errors import InputError
from .options.embed import EmbedOptions

__all__ = ["ModelInfo", "require_output"]

#: The method of `Encoder` for each output, for messages.
METHODS: Mapping[Output, str] = MappingProxyType(
    {"vectors": "embed", "scores": "score", "sparse": "embed_sparse", "token_vectors": "embed_tokens"}
)


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model: its card and the way in which it runs here. Nothing in it changes while the model is loaded.

    Attributes:
        card: the model's card.
        digest: hash of everything in the artifact that decides the vectors, hexadecimal.
        variant: name of the graph that runs.
        provider: title of the execution provider that the session runs on, for display.
        provider_name: name of the provider that opened it, as options write it.
        dimension: length of a full vector; of scores their number, of sparse vectors the vocabulary's size.
        max_tokens: longest input in tokens, special tokens included; longer inputs are truncated.
        outputs: outputs that `prepare` accepts. An embedder that also lists `token_vectors` gives the states of its tokens.
        workers: batches that are computed at once.
        token_budget: tokens that a batch should hold.
        half_vectors: whether the graph can give the vectors in float16, and no cache wants them in float32.
        reason: why this provider, these workers and this token budget were chosen.
        fallback: why another provider runs than the requested one; None if the requested one runs.
    """

    card: ModelCard
    digest: str
    variant: str
    provider: str
    provider_name: str
    dimension: int
    max_tokens: int
    outputs: tuple[Output, ...]
    workers: int
    token_budget: int
    half_vectors: bool = False
    reason: str = ""
    fallback: str | None = None

    @property
    def has_token_states(self) -> bool:
        """Return whether the graph gives the states of an embedder's tokens, which late chunking averages."""
        return "vectors" in self.outputs and "token_vectors" in self.outputs

    def check(self, options: EmbedOptions) -> None:
        """Reject options that this model cannot embed texts with.

        Raises:
            InputError: the model does not give vectors, or does not have an option; the message names the option.
        """
        require_output(self.card, "vectors")
        options.check(self.card, late=self.has_token_states)


def require_output(card: ModelCard, output: Output) -> None:
    """Reject a model that gives another output.

    Raises:
        InputError: the model gives something else; the message names the method to use.
    """
    if card.output != output:
        raise InputError(
            f"{card.name} gives {card.output.replace('_', ' ')}, not {output.replace('_', ' ')}: "
            f"use `{METHODS[card.output]}` instead of `{METHODS[output]}`"
        )
