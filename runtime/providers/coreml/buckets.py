"""Buckets of a `coreml` artifact: graphs of one precision for texts of different lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...batch import Batch
from ...errors import ArtifactError, InputError

__all__ = ["bucket_of_rows", "buckets_of", "length_of"]

#: End of the variant name of a bucket, as in `coreml-fp16-s128`.
LENGTH = re.compile(r"-s\d+$")


def buckets_of(artifact: Artifact, variant: Variant) -> tuple[Variant, ...]:
    """Return the variants that differ from a variant only in their length, shortest first. One session runs all of them.

    Args:
        artifact: artifact that contains the variants.
        variant: one of the variants.

    Raises:
        ArtifactError: a variant does not have the fixed shape of one text.
    """
    family = LENGTH.sub("", variant.name)
    buckets = [other for other in artifact.manifest.variants if LENGTH.sub("", other.name) == family]
    return tuple(sorted(buckets, key=length_of))


def length_of(variant: Variant) -> int:
    """Return the number of tokens that the graph of a bucket takes.

    Raises:
        ArtifactError: the variant does not have the fixed shape of one text.
    """
    shape = variant.feeds.shape
    if shape is None or shape[0] != 1:
        raise ArtifactError(
            f"the variant {variant.name} has the shape {shape}, and a graph for CoreML takes one text of a fixed length: "
            "convert the checkpoint again"
        )
    return shape[1]


def bucket_of_rows(batch: Batch, lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the smallest bucket that holds each row, as an index into the lengths, int64, (n,).

    Args:
        batch: at least one row.
        lengths: number of tokens of each bucket, in ascending order.

    Raises:
        InputError: a row is longer than every bucket.
    """
    places = np.searchsorted(np.array(lengths), batch.lengths)
    if int(places.max()) == len(lengths):
        raise InputError(
            f"a text of {int(batch.lengths.max())} tokens was given to graphs for at most {lengths[-1]}: cut it, or choose "
            "a variant of another target"
        )
    return places
