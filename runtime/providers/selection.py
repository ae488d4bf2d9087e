"""Selection of a provider by its name, and of providers and variants that can run on this machine."""

from __future__ import annotations

from ..artifact.folder import Artifact
from ..artifact.manifest import Target, Variant
from ..errors import ArtifactError, OptionError, ProviderError
from ..machine.machine import Machine, this_machine
from . import registry
from .needs import missing
from .provider import DeviceKind, Provider

__all__ = [
    "AUTO",
    "all_providers",
    "candidates",
    "check_provider",
    "choose_variant",
    "choose_variants",
    "default_provider",
    "find_provider",
    "is_provider",
    "runnable_targets",
]

#: Value of the option `provider` that chooses a provider by measurement.
AUTO = "auto"

#: Devices whose targets are preferred over those of the processor if no variant is named. Apple devices are missing, because
#: CoreML was not measured.
BEFORE_THE_PROCESSOR: tuple[DeviceKind, ...] = ("nvidia",)


def all_providers() -> tuple[Provider, ...]:
    """Return all providers in the order of preference."""
    return registry.PROVIDERS


def is_provider(name: str) -> bool:
    """Return whether a provider has this name."""
    return any(provider.name == name for provider in registry.PROVIDERS)


def find_provider(name: str) -> Provider:
    """Return the provider with a name.

    Raises:
        OptionError: there is no provider of this name; `field` is `provider`.
    """
    for provider in registry.PROVIDERS:
        if provider.name == name:
            return provider
    names = (AUTO, *(provider.name for provider in registry.PROVIDERS))
    raise OptionError("provider", f"there is no provider {name!r}: use {', '.join(names)}")


def check_provider(name: str) -> None:
    """Raise an error unless a name is `auto` or the name of a provider.

    Raises:
        OptionError: there is no provider of this name; `field` is `provider`.
    """
    if name != AUTO:
        find_provider(name)


def candidates(variant: Variant, machine: Machine) -> list[tuple[Provider, str | None]]:
    """Return the providers of a variant's target, each with the reason why it cannot be used on a machine, or None."""
    return [
        (provider, missing(provider, machine)) for provider in registry.PROVIDERS if variant.target in provider.targets
    ]


def default_provider(target: Target) -> str:
    """Return the name of the provider that runs a target if none is named and there is no measurement.

    Raises:
        ProviderError: no provider runs it.
    """
    for provider in registry.PROVIDERS:
        if target in provider.targets:
            return provider.name
    raise ProviderError(f"no provider here runs the target {target}: load a cpu variant")


def choose_variants(
    artifact: Artifact, name: str | None, provider: str, precision: str | None = None
) -> tuple[Variant, ...]:
    """Return the variants that a provider should try, the preferred one first.

    There are several only if the caller requests neither a variant nor a precision, and the provider prefers a precision
    whose canary may fail: then the next variant follows.

    Args:
        artifact: artifact that contains the variants.
        name: name of the variant; None chooses by provider and precision.
        provider: name of a provider, or `auto`, which prefers a GPU.
        precision: precision of the variant; None prefers those of `Provider.preferred`.

    Raises:
        OptionError: there is no provider of this name, or the named variant has another precision; `field` names the option.
        ArtifactError: the artifact has no such variant, or no variant that the provider runs.
    """
    targets = runnable_targets() if provider == AUTO else find_provider(provider).targets
    if name is not None:
        variant = artifact.variant(name)
        if precision not in (None, variant.precision):
            raise OptionError("precision", f"precision is {precision}, but the variant {name} has {variant.precision}")
        return (variant,)
    variants = next((found for target in targets if (found := _of_precision(artifact, target, precision))), ())
    if variants:
        first = find_provider(default_provider(variants[0].target)) if provider == AUTO else find_provider(provider)
        preferred = [variant for variant in variants if precision is None and variant.precision in first.preferred]
        return (*preferred[:1], *(variant for variant in variants if variant not in preferred))[
            : 1 + len(preferred[:1])
        ]
    if precision is not None:
        names = ", ".join(dict.fromkeys(variant.precision for variant in artifact.manifest.variants)) or "none"
        raise ArtifactError(f"{artifact.path} has no variant of precision {precision} that runs here: it has {names}")
    if provider != AUTO:
        raise ArtifactError(
            f"{artifact.path} has no variant that {provider} runs: export the checkpoint with --target {targets[0]}"
        )
    return (artifact.variant(),)


def _of_precision(artifact: Artifact, target: Target, precision: str | None) -> tuple[Variant, ...]:
    return tuple(variant for variant in artifact.of_target(target) if precision in (None, variant.precision))


def choose_variant(artifact: Artifact, name: str | None, provider: str, precision: str | None = None) -> Variant:
    """Return the first one of `choose_variants`."""
    return choose_variants(artifact, name, provider, precision)[0]


def runnable_targets() -> tuple[Target, ...]:
    """Return the targets that this machine runs, the preferred ones first. `cpu` is always one of them."""
    machine = this_machine()
    usable = [
        provider
        for provider in registry.PROVIDERS
        if provider.device_kind != "cpu" and missing(provider, machine) is None
    ]
    preferred = [provider for provider in usable if provider.device_kind in BEFORE_THE_PROCESSOR]
    others = [provider for provider in usable if provider.device_kind not in BEFORE_THE_PROCESSOR]
    before = [target for provider in preferred for target in provider.targets]
    after = [target for provider in others for target in provider.targets]
    return tuple(dict.fromkeys((*before, "cpu", *after)))
