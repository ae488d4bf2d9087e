"""`ModelInfo`: description of a loaded model, with a check whether the model supports given options."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from fletcher.model_zoo.card import Accuracy, ModelCard, Output

from .artifact.calibration import Calibration
from .artifact.manifest import TOKEN_WEIGHTS, Proof, Target
from .artifact.outputs import is_joined
from .errors import InputError, OptionError
from .inputs import Requested
from .options.embed import EmbedOptions
from .space.bounds import Bounds
from .space.derived import RequestSpaces
from .space.space import Space

__all__ = ["ModelInfo", "VariantInfo", "require_output"]

#: Method of `Encoder` for each output, used in messages.
METHODS: Mapping[Output, str] = MappingProxyType(
    {"vectors": "embed", "scores": "score", "sparse": "embed_sparse", "token_vectors": "embed_tokens"}
)


class VariantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Description of one graph of an artifact.

    Attributes:
        name: `TARGET-PRECISION`, for example `cpu-fp32`.
        target: kind of graph, made for one or more providers.
        precision: type of its weights.
        tolerance: allowed difference of its vectors from the canary's.
        measured: figures of its comparison with the reference, by name.
        canary: `passed` if it passed the canary at export; `unchecked` if the exporting machine could not run it.
        batch_dependent: whether a text's vector depends on the other texts of its batch.
    """

    name: str
    target: Target
    precision: str
    tolerance: Accuracy
    measured: Mapping[str, float]
    canary: Literal["passed", "unchecked"]
    batch_dependent: bool


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a loaded model: its card, and the provider and workers that run it. It never changes.

    Attributes:
        card: the model's card.
        digest: the artifact's digest, hexadecimal; see `Artifact.digest`.
        variant: name of the graph that runs.
        provider: title of the execution provider that the session runs on, for display.
        provider_name: name of the provider that opened it, as in `LoadOptions.provider`.
        dimension: length of a full vector; the number of scores per pair, or the vocabulary's size, for models with these
            outputs.
        max_tokens: longest input in tokens, special tokens included; longer inputs are truncated.
        outputs: outputs that `prepare` accepts. An embedder that also lists `token_vectors` gives the states of its tokens.
        workers: number of batches that are computed at the same time.
        token_budget: tokens that a batch should hold.
        devices: number of devices that compute batches.
        small_tokens: largest number of tokens of a batch that takes about as long as one text; see `Session`.
        half_vectors: whether the graph can give the vectors in float16, and no cache wants them in float32.
        reason: reason for the choice of provider, workers and token budget.
        canary: origin of the canary: `verified` if the artifact was compared with the reference model, `published` if the
            authors' model computed the canary, `self-made` if the artifact did.
        proof: the same in words, with packages, versions and time.
        fallback: reason why another provider runs than the requested one; None if the requested one runs.
        tokenizer: SHA-256 of the tokenizer's file, hexadecimal: models with equal ones share token ids.
        space: everything that decides a vector.
        bounds: distances between vectors of this space; None if nothing states them.
        calibration: function from similarities to probabilities; None if the artifact was not calibrated.
        token_dimension: length of the vectors of tokens that an embedder gives beside the vectors of texts (BGE-M3); 0 if it
            gives none.
        token_heads: digest of the weights of these outputs; empty if it gives none.
        query_weights: SHA-256 of the file of the weights of queries that need no encoder; empty if there is none.
        variants: the artifact's graphs; `variant` is the name of the one that runs.
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
    space: Space
    devices: int = 1
    small_tokens: int = 0
    half_vectors: bool = False
    reason: str = ""
    canary: Proof = "self-made"
    proof: str = ""
    fallback: str | None = None
    tokenizer: str = ""
    bounds: Bounds | None = None
    calibration: Calibration | None = None
    variants: tuple[VariantInfo, ...] = ()
    token_dimension: int = 0
    token_heads: str = ""
    query_weights: str = ""

    @property
    def widths(self) -> dict[str, int]:
        """Return the elements of a row of each output of an embedder's graph that a request of several outputs can name."""
        return {"vectors": self.dimension, TOKEN_WEIGHTS: 1, "token_vectors": self.token_dimension}

    def width(self, output: str | None) -> int:
        """Return the elements of a row of an output of the graph, or of the column of several outputs."""
        if output is None or not self.token_dimension:
            return self.dimension
        return 1 if is_joined(output) else self.widths.get(output, self.dimension)

    @property
    def spaces(self) -> RequestSpaces:
        """Return the identifiers of the vectors that requests get, to be kept: each call makes them anew."""
        return RequestSpaces(
            self.space.id,
            output=self.card.output,
            dimension=self.dimension,
            normalized=self.card.normalize,
            prompts=self.card.prompts,
            token_heads=self.token_heads,
        )

    @property
    def has_token_states(self) -> bool:
        """Return whether the graph gives the states of an embedder's tokens, which late chunking averages."""
        return "vectors" in self.outputs and "token_vectors" in self.outputs and not self.token_dimension

    def check(self, options: EmbedOptions) -> None:
        """Raise an error if this model cannot embed texts with these options.

        Raises:
            InputError: the model does not give vectors, or does not have an option; the message names the option.
        """
        require_output(self.card, "vectors")
        options.check(self.card, late=self.has_token_states)

    def check_request(self, options: EmbedOptions, output: Requested) -> None:
        """Raise an error if this model cannot answer a request for vectors, or for vectors and further outputs.

        Raises:
            InputError: the model does not have an option, or does not give one of the outputs.
        """
        self.check(options)
        if isinstance(output, str):
            return
        for one in output:
            self.require(one)
        if options.splits:
            raise OptionError(
                "overflow", f"overflow {options.overflow} gives vectors alone, not {', '.join(output)}: use truncation"
            )

    def require(self, output: Output) -> None:
        """Raise an error if this model does not give an output.

        Raises:
            InputError: it does not; the message names the method to use.
        """
        if not (self.token_dimension and output in self.outputs):
            require_output(self.card, output)


def require_output(card: ModelCard, output: Output) -> None:
    """Raise an error if the model's output is another one.

    Raises:
        InputError: the model has another output; the message names the method to use.
    """
    if card.output != output:
        raise InputError(
            f"{card.name} gives {card.output.replace('_', ' ')}, not {output.replace('_', ' ')}: "
            f"use `{METHODS[card.output]}` instead of `{METHODS[output]}`"
        )
