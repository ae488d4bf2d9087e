"""Rectangles that TensorRT engines take, and the split of a batch into such rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import Profile, Variant
from ...batch import Batch
from ...errors import ArtifactError, InputError

__all__ = ["LONGEST", "TEXTS", "Limit", "Part", "limits_of", "sides_of", "split"]

#: Names of the free sizes in the graphs that Fletcher emits.
TEXTS, LONGEST = "texts", "longest"


@dataclass(frozen=True, slots=True)
class Limit:
    """`Limit`: largest rectangle of a profile.

    Attributes:
        texts: number of rows.
        longest: number of tokens in a row.
    """

    texts: int
    longest: int


@dataclass(frozen=True, slots=True)
class Part:
    """`Part`: rows of a batch that run together.

    Attributes:
        profile: index of the profile in the manifest.
        rows: indices of the texts, int64, (m,).
    """

    profile: int
    rows: NDArray[np.int64]


def limits_of(variant: Variant) -> tuple[Limit, ...]:
    """Return the limit of each profile, in the order of the manifest.

    Raises:
        ArtifactError: the variant has no profiles, or a profile does not define its numbers of texts and tokens.
    """
    if not variant.profiles:
        raise ArtifactError(
            f"the variant {variant.name} has no profiles, and TensorRT would build an engine for every shape: "
            "convert the checkpoint again"
        )
    return tuple(_limit(variant, profile) for profile in variant.profiles)


def sides_of(variant: Variant, profile: Profile) -> tuple[Mapping[str, tuple[int, ...]], ...]:
    """Return the smallest, best and largest shapes of the inputs with free sizes.

    Raises:
        ArtifactError: a shape is missing.
    """
    free = [info.name for info in variant.inputs if any(isinstance(size, str) for size in info.shape)]
    for side in (profile.min, profile.opt, profile.max):
        if missing := sorted(set(free) - set(side)):
            raise ArtifactError(
                f"a profile of the variant {variant.name} lacks the inputs {', '.join(missing)}, so that TensorRT would "
                "build engines while it serves: convert the checkpoint again"
            )
    return tuple({name: side[name] for name in free} for side in (profile.min, profile.opt, profile.max))


def split(batch: Batch, limits: Sequence[Limit], multiple: int = 1) -> list[Part]:
    """Split a batch into parts of texts of similar length, each for the smallest profile that is wide enough.

    Args:
        batch: at least one text.
        limits: limits of the profiles.
        multiple: number of which the width of a rectangle must be a multiple.

    Returns:
        Parts that contain every text once. If one profile takes the whole batch, the texts stay in their order.

    Raises:
        InputError: a text is longer than every profile.
    """
    widths = batch.lengths + -batch.lengths % multiple
    ladder = sorted(range(len(limits)), key=lambda place: limits[place].longest)
    steps = np.array([limits[place].longest for place in ladder])
    step = np.searchsorted(steps, widths)  # (n,): first profile that is wide enough for each text
    if (step == len(ladder)).any():
        raise InputError(
            f"a text of {int(batch.lengths.max())} tokens was given to an engine for at most {int(steps[-1])}: "
            "cut it, or choose a variant with a larger shape"
        )
    if (step == step[0]).all() and len(batch) <= limits[ladder[step[0]]].texts:
        return [Part(ladder[step[0]], np.arange(len(batch)))]
    parts = []
    order = np.argsort(widths, kind="stable")
    for place, profile in enumerate(ladder):
        rows, texts = order[step[order] == place], limits[profile].texts
        parts += [Part(profile, rows[start : start + texts]) for start in range(0, len(rows), texts)]
    return parts


def _limit(variant: Variant, profile: Profile) -> Limit:
    """Return the limit of a profile."""
    sizes: dict[str, set[int]] = {}
    for info in variant.inputs:
        for name, size in zip(info.shape, profile.max.get(info.name, ()), strict=False):
            sizes.setdefault(str(name), set()).add(size)
    texts, longest = sizes.get(TEXTS, set()), sizes.get(LONGEST, set())
    if len(texts) != 1 or len(longest) != 1:
        raise ArtifactError(
            f"a profile of the variant {variant.name} does not define one number of texts and one number of tokens "
            f"({sorted(texts)}, {sorted(longest)}): convert the checkpoint again"
        )
    return Limit(texts.pop(), longest.pop())
