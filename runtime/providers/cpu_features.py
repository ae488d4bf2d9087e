"""Whether a processor has what a quantized variant needs, and which variant fits one that has not."""

from __future__ import annotations

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..errors import ProviderError
from ..machine.machine import Machine

__all__ = ["check_instructions", "lacking"]


def lacking(variant: Variant, machine: Machine) -> tuple[str, ...]:
    """The variant's requirements that the machine does not meet; `a|b` is met by either."""
    return tuple(wanted for wanted in variant.instructions if not machine.instructions & set(wanted.split("|")))


def check_instructions(artifact: Artifact, variant: Variant, machine: Machine) -> None:
    """
    Raises:
        ProviderError: the processor lacks an instruction set, without which the variant's vectors would be wrong.
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
        else f"load {variant.target}-fp32 of the artifact that it was made from, or quantize that with the recipe "
        "int8-per-token-reduced"
    )
    wanted = ", ".join(group.replace("|", " or ") for group in missing)
    raise ProviderError(
        f"the variant {variant.name} of {artifact.path} needs a processor with {wanted}, and this one "
        f"({machine.processor}) has none of them: {advice}"
    )
