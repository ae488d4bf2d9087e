"""Instruction sets that a quantized variant needs, compared with those of a processor."""

from __future__ import annotations

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..errors import ProviderError
from ..machine.machine import Machine

__all__ = ["check_instructions", "lacking"]


def lacking(variant: Variant, machine: Machine) -> tuple[str, ...]:
    """Return the instruction sets of a variant that the machine lacks; `a|b` needs one of the two."""
    return tuple(group for group in variant.instructions if not machine.instructions & set(group.split("|")))


def check_instructions(artifact: Artifact, variant: Variant, machine: Machine) -> None:
    """Raise an error unless the processor has the instruction sets of a variant.

    Raises:
        ProviderError: the processor lacks an instruction set, and the vectors of the variant would be wrong without it.
    """
    missing = lacking(variant, machine)
    if not missing:
        return
    fitting = [
        other.name
        for other in artifact.manifest.variants
        if other.target == variant.target and not lacking(other, machine)
    ]
    advice = (
        f"load the variant {fitting[0]}"
        if fitting
        else f"load {variant.target}-fp32 of the original artifact, or quantize that artifact with the recipe "
        "int8-per-token-reduced"
    )
    groups = ", ".join(group.replace("|", " or ") for group in missing)
    raise ProviderError(
        f"the variant {variant.name} of {artifact.path} needs a processor with {groups}, and this one "
        f"({machine.processor}) has none of them: {advice}"
    )
