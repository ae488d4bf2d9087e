"""The inputs of a graph for packed tokens (target `cpu`): the arrays of `Encodings` as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ...encodings import Encodings

__all__ = ["token_inputs"]


def token_inputs(names: Sequence[str], batch: Encodings) -> dict[str, NDArray[Any]]:
    """Each input by its name: `input_ids`, `offsets`, and for pairs of texts `token_type_ids`."""
    feeds: dict[str, NDArray[Any]] = {"input_ids": batch.ids, "offsets": batch.offsets}
    if "token_type_ids" in names:
        feeds["token_type_ids"] = batch.types
    return feeds
