"""Tolerances of a canary, and the check that a manifest does not widen them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from fletcher.model_zoo.card import Accuracy, ModelCard
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.zoo import load_card

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..errors import ArtifactError

__all__ = ["FLOORS", "TOLERANCES", "check_tolerance", "default_tolerance"]

#: Default tolerances of each precision against HuggingFace in float32; a card can have its own.
TOLERANCES: Mapping[str, Accuracy] = MappingProxyType(
    {
        "fp32": Accuracy(min_cosine=0.999999, max_abs=1e-5),
        "fp16": Accuracy(min_cosine=0.9999),
        "bf16": Accuracy(min_cosine=0.999),
    }
)

#: The same for scores and sparse vectors, which are not normalized: logits are of the order of 10, vectors' elements of 0.1
#: (MiniLM's encoder under a random classifier: scores of 2 to 5, 1.4e-5 from HuggingFace).
LOGIT_MAX_ABS = 1e-4

#: Default of a recipe's `min_cosine` by scheme: the canary's smallest allowed cosine. A lower cosine means that the recipe
#: does not suit the model or that the graph is broken. A canary has unusual texts, which lose the most.
FLOORS: Mapping[str, float] = MappingProxyType(
    {
        "int8-per-token": 0.97,
        "int8-static": 0.8,
        "int8-dynamic": 0.9,
        "w8": 0.99,
        "w4": 0.85,
        "fp16": 0.9999,
        "bf16": 0.999,
        "mixed": 0.98,
    }
)


def default_tolerance(card: ModelCard, precision: str) -> Accuracy:
    """Return the tolerance of a variant: the card's, or the default of its precision and output."""
    tolerance = card.accuracy.get(precision, TOLERANCES[precision])
    if precision in card.accuracy or tolerance.max_abs is None or card.output in ("vectors", "token_vectors"):
        return tolerance
    return Accuracy(min_cosine=tolerance.min_cosine, max_abs=LOGIT_MAX_ABS)


def check_tolerance(artifact: Artifact, variant: Variant) -> None:
    """Raise an error if the manifest allows a variant more than Fletcher writes; then a canary would prove nothing.

    Only a card of the zoo in this package can allow more than the defaults, not the card in the manifest.

    Raises:
        ArtifactError: the variant's tolerance is wider.
    """
    allowed, stated = _widest(artifact.manifest.card, variant), variant.tolerance
    widened = not stated.min_cosine >= allowed.min_cosine
    if allowed.max_abs is not None and (stated.max_abs is None or not stated.max_abs <= allowed.max_abs):
        widened = True
    if widened:
        raise ArtifactError(
            f"the manifest of {artifact.path} allows {variant.name} the cosine {stated.min_cosine:g} and the difference "
            f"{stated.max_abs} from its canary, and Fletcher writes at least {allowed.min_cosine:g} and at most "
            f"{allowed.max_abs}. Ask for the artifact's origin, or set min_cosine if you accept less"
        )


def _widest(card: ModelCard, variant: Variant) -> Accuracy:
    if variant.recipe is not None:
        return Accuracy(min_cosine=FLOORS.get(str(variant.recipe.get("scheme")), max(FLOORS.values())))
    try:
        accuracy: Mapping[str, Accuracy] = load_card(card.name).accuracy
    except CardError:
        accuracy = {}
    precision = variant.precision if variant.precision in TOLERANCES else "fp32"
    return default_tolerance(msgspec.structs.replace(card, accuracy=accuracy), precision)
