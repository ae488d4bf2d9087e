"""`Space`: everything that decides a vector, and a short identifier of it.

Two vectors can be compared if their identifiers are equal. The identifier is made of content and not of files, so it is the
same on every machine, provider and version of Fletcher that gives these vectors: an artifact of a later version has the same
identifier although its files differ. `docs/explanation/spaces.md` lists what is in and what is out, with the reasons.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fletcher.model_zoo.card import Accuracy, LateInteraction, LogitScore, Output, PoolingMode, StaticQueries

from ..artifact.folder import TOKENIZER, Artifact
from ..artifact.manifest import Content, Variant

__all__ = ["FLOAT_COSINE", "Difference", "Space", "compare_spaces", "space_of"]

#: Prefix of identifiers: the version of the rules by which they are made.
PREFIX = "fs1-"

#: Characters of the hash: 80 bits in base32.
CHARACTERS = 16

#: Smallest cosine with the float32 reference that the precision class `float` promises: that of bf16, the widest of its
#: members fp32, fp16 and bf16.
FLOAT_COSINE = 0.999


#: Schemes of a recipe that only round weights to a float type.
FLOATS = frozenset({"fp32", "fp16", "bf16"})


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that decides a vector, besides the text and the options of a request.

    Attributes:
        weights: digest of the checkpoint's tensors: names, shapes, and values in float32.
        graph: digest of the graph's meaning: layers, norms, activations, positions, modules after the encoder.
        tokenizer: digest of the tokenizer's content.
        precision: `float` for fp32, fp16 and bf16, whose vectors are within `FLOAT_COSINE` of float32. Every quantization
            is a class of its own: its recipe, and a digest of its weights. `below COSINE` if a load allows less than that.
        output: output of the model.
        dimension: length of a full vector.
        normalize: whether vectors have L2 norm 1.
        max_tokens: longest input in tokens; longer ones are cut.
        cut: end of a text at which it is cut.
        prompts: prefix by input type.
        pooling: pooling modes.
        strips_texts: whether blanks around a text are removed.
        layer_norm_before_truncation: whether a layer norm comes before a cut to fewer dimensions.
        activation: function from logits to scores.
        late_interaction: settings of a ColBERT model.
        logit_score: tokens and chat template of a reranker that is a language model; left out for other models.
        static_queries: settings of queries that need no model; left out for other models.
        tasks: number of the adapter or the route by input type; left out for other models.
    """

    weights: str
    graph: str
    tokenizer: str
    precision: str
    output: Output
    dimension: int
    normalize: bool
    max_tokens: int
    cut: str
    prompts: Mapping[str, str] = {}
    pooling: tuple[PoolingMode, ...] = ()
    strips_texts: bool = False
    layer_norm_before_truncation: bool = False
    activation: str | None = None
    late_interaction: LateInteraction | None = None
    logit_score: LogitScore | msgspec.UnsetType = msgspec.UNSET
    static_queries: StaticQueries | msgspec.UnsetType = msgspec.UNSET
    tasks: Mapping[str, int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def id(self) -> str:
        """Return the identifier: `fs1-` and 16 letters and digits of base32. It is computed anew at each call."""
        content = msgspec.json.encode(self, order="deterministic")
        digest = base64.b32encode(hashlib.sha256(content).digest()).decode().lower()
        return PREFIX + digest[:CHARACTERS]


def space_of(artifact: Artifact, variant: Variant, cut: str, tolerance: Accuracy | None = None) -> Space:
    """Return the space of a variant's vectors.

    Args:
        artifact: the artifact.
        variant: one of its variants.
        cut: end of a text at which the tokenizer cuts it, `right` or `left`.
        tolerance: difference from the reference that the load allows. Default: the variant's tolerance.
    """
    manifest = artifact.manifest
    card = manifest.card
    content = manifest.content or _content_of_files(artifact, variant)
    return Space(
        weights=content.weights,
        graph=content.graph,
        tokenizer=content.tokenizer,
        precision=_precision_class(artifact, variant, tolerance or variant.tolerance),
        output=card.output,
        dimension=card.dimension,
        normalize=card.normalize,
        max_tokens=card.max_tokens,
        cut=cut,
        prompts=card.prompts,
        pooling=card.pooling,
        strips_texts=manifest.strips_texts,
        layer_norm_before_truncation=card.layer_norm_before_truncation,
        activation=card.activation,
        late_interaction=card.late_interaction,
        logit_score=card.logit_score,
        static_queries=card.static_queries,
        tasks=card.tasks,
    )


def _content_of_files(artifact: Artifact, variant: Variant) -> Content:
    """Return digests of files, for an artifact from before `Manifest.content`: another export has other ones."""
    files = artifact.manifest.files
    return Content(
        weights=f"file {files[variant.weights].sha256}",
        graph=f"file {files[variant.file].sha256}",
        tokenizer=f"file {files[TOKENIZER].sha256}",
    )


def _precision_class(artifact: Artifact, variant: Variant, tolerance: Accuracy) -> str:
    if variant.recipe is not None and not _rounds_only(variant.recipe):
        # The values of quantized weights depend on the recipe and on the calibration, so the file itself is the class.
        return f"{variant.precision} {artifact.manifest.files[variant.weights].sha256}"
    return "float" if tolerance.min_cosine >= FLOAT_COSINE else f"below {tolerance.min_cosine:g}"


def _rounds_only(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe does no more than store weights in a half type, as an export in that precision does."""
    return {recipe.get("scheme"), *recipe.get("overrides", {}).values()} <= FLOATS


class Difference(msgspec.Struct, frozen=True):
    """A component in which two spaces differ.

    Attributes:
        component: name of the component, a field of `Space`.
        first: its value in the first space.
        second: its value in the second space.
    """

    component: str
    first: Any
    second: Any


def compare_spaces(first: Space, second: Space) -> tuple[Difference, ...]:
    """Return the components in which two spaces differ; none if their identifiers are equal."""
    pairs = ((name, getattr(first, name), getattr(second, name)) for name in Space.__struct_fields__)
    return tuple(Difference(name, one, other) for name, one, other in pairs if one != other)
