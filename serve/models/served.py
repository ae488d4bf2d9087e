"""`ServedModel`: a model as the command announces it."""

from __future__ import annotations

import msgspec

from .registry import Models

__all__ = ["ServedModel", "served_models"]


class ServedModel(msgspec.Struct, frozen=True):
    """A version of a model as the command announces it.

    Attributes:
        name: name of the model.
        variant: variant of the artifact.
        provider: execution provider.
        reason: reason of the choice of the provider.
    """

    name: str
    variant: str
    provider: str
    reason: str = ""


def served_models(models: Models) -> tuple[ServedModel, ...]:
    """Return all versions of all models."""
    return tuple(
        ServedModel(
            model.name, version.info.variant, version.info.provider, version.info.fallback or version.info.reason
        )
        for model in models.named
        for version in model.versions
    )
