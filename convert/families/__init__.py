"""Families: from a checkpoint's configuration and tensors to an `Architecture`. One family a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fletcher.runtime.errors import CheckpointError

from ..checkpoint import Checkpoint
from ..description import Architecture
from .bert import describe_bert

__all__ = ["FAMILIES", "describe"]

#: Authored families by `model_type`.
FAMILIES: Mapping[str, Callable[[Checkpoint], Architecture]] = MappingProxyType(
    {
        "bert": describe_bert,
    }
)


def describe(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a checkpoint's encoder; what follows it is for the caller to add.

    Args:
        checkpoint: what to describe.

    Raises:
        CheckpointError: the family is not authored, or the checkpoint cannot be converted without guessing.
    """
    family = checkpoint.config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint.folder} has the model type {family!r}; Fletcher authors {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family](checkpoint)
