"""Rectangles that TensorRT engines take, and cutting a batch into such rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import Profile, Variant
from ...batch import Batch
from ...errors import ArtifactError, InputError

__all__ = ["LONGEST", "TEXTS", "Limit", "Part", "limits_of", "sides_of", "split"]

#: Names of the free sizes, as the emitter writes them.
TEXTS, LONGEST = "texts", "longest"


@dataclass(frozen=True, slots=True)
class Limit:
    """Largest rectangle of a profile.

    Attributes:
        texts: rows.
        longest: tokens of a row.
    """

    texts: int
    longest: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a batch that run at once.

    Attributes:
        profile: which, by its place in the manifest.
        rows: which texts, int64, (m,).
    """

    profile: int
    rows: NDArray[np.int64]


def limits_of(variant: Variant) -> tuple[Limit, ...]:
    """Return each profile's limit, in the manifest's order.

    Raises:
        ArtifactError: a profile is missing, or does not say what texts and tokens it takes.
    """
    if not variant.profiles:
        raise ArtifactError(
            f"the variant {variant.name} has no profiles, and TensorRT would build an engine for every shape: "
            "convert the checkpoint again"
        )
    return tuple(_limit(variant, profile) for profile in variant.profiles)


def sides_of(variant: Variant, profile: Profile) -> tuple[Mapping[str, tuple[int, ...]], ...]:
    """Return smallest, best and largest shapes of the inputs that have free sizes.

    Raises:
        ArtifactError: one of them is missing.
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
    """Cut a batch so that each part fits the smallest profile that takes its texts; texts of like length come together.

    Args:
        batch: at least one text.
        limits: of the profiles.
        multiple: what the rectangle's width is rounded up to.

    Returns:
        Parts that hold every text once. A batch that fits one profile as it is stays in its order.

    Raises:
        InputError: a text is longer than every profile.
    """
    widths = batch.lengths + -batch.lengths % multiple
    ladder = sorted(range(len(limits)), key=lambda place: limits[place].longest)
    steps = np.array([limits[place].longest for place in ladder])
    step = np.searchsorted(steps, widths)  # (n,): of each text, the first profile that is wide enough
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
        rows, most = order[step[order] == place], limits[profile].texts
        parts += [Part(profile, rows[start : start + most]) for start in range(0, len(rows), most)]
    return parts


def _limit(variant: Variant, profile: Profile) -> Limit:
    sizes: dict[str, set[int]] = {}
    for info in variant.inputs:
        for name, size in zip(info.shape, profile.max.get(info.name, ()), strict=False):
            sizes.setdefault(str(name), set()).add(size)
    texts, longest = sizes.get(TEXTS, set()), sizes.get(LONGEST, set())
    if len(texts) != 1 or len(longest) != 1:
        raise ArtifactError(
            f"a profile of the variant {variant.name} does not say one size of texts and one of tokens "
            f"({sorted(texts)}, {sorted(longest)}): convert the checkpoint again"
        )
    return Limit(texts.pop(), longest.pop())
