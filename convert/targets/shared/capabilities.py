"""Capabilities of a target's emitter, and the refusal of an architecture that needs more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fletcher.runtime.errors import InputError

from ...architecture import Architecture, Attention, Window
from ...checkpoint.tensors import NormKind

__all__ = ["ALL", "Capabilities", "MaskKind", "check_capabilities"]

#: Kinds of masks: all tokens, those up to the token itself, as many before as after it, or different numbers.
MaskKind = Literal["full", "causal", "window", "one-sided window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Parts of an architecture that an emitter has nodes for.

    Attributes:
        norms: kinds of norms.
        masks: kinds of attention masks.
        grouped_heads: whether key and value may have fewer heads than the query.
        convolutions: whether attentions may have convolutions beside them.
    """

    norms: frozenset[NormKind]
    masks: frozenset[MaskKind]
    grouped_heads: bool = False
    convolutions: bool = False


#: All parts that an architecture can have.
ALL = Capabilities(
    norms=frozenset({"layer_norm", "rms_norm"}),
    masks=frozenset({"full", "causal", "window", "one-sided window"}),
    grouped_heads=True,
    convolutions=True,
)


def check_capabilities(target: str, capabilities: Capabilities, architecture: Architecture) -> None:
    """Refuse an architecture that a target cannot emit.

    Raises:
        InputError: the architecture has a part that the target has no nodes for, such as a norm or a mask; the message names
            each of them.
    """
    missing = list(dict.fromkeys(_missing(capabilities, architecture)))
    if missing:
        raise InputError(
            f"the target {target} cannot emit {' or '.join(missing)}, which the family {architecture.family} needs: export "
            "the model for another target"
        )


def _missing(capabilities: Capabilities, architecture: Architecture) -> Iterator[str]:
    """Yield a name for each part that the capabilities lack."""
    for norm in architecture.norms:
        if norm.kind not in capabilities.norms:
            yield f"norms of the kind {norm.kind}"
    for attention in architecture.attentions:
        if (mask := _mask_kind(attention)) not in capabilities.masks:
            yield f"attention with a {mask} mask"
        if attention.num_kv_heads != attention.num_heads and not capabilities.grouped_heads:
            yield "attention with fewer heads of keys than of queries"
        if attention.convolution is not None and not capabilities.convolutions:
            yield "attention with convolutions"


def _mask_kind(attention: Attention) -> MaskKind:
    mask = attention.mask
    if isinstance(mask, Window):
        return "window" if mask.before == mask.after else "one-sided window"
    return mask
