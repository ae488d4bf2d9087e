"""The execution providers that Fletcher knows, and why one cannot be used here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

from ..artifact.folder import Artifact
from ..artifact.manifest import Target, Variant
from ..errors import ArtifactError, InputError, MissingPackageError, ProviderError
from ..machine.gpus import this_gpus
from ..machine.machine import Machine, this_machine
from .tensorrt.libraries import RTX_PACKAGE, rtx_problem, tensorrt_problem

__all__ = [
    "AUTO",
    "PROVIDERS",
    "Provider",
    "candidates",
    "check_provider",
    "choose_variant",
    "default_provider",
    "missing",
    "require",
    "runnable_targets",
    "too_old",
    "version_numbers",
]

#: Asks for a measurement instead of naming a provider.
AUTO = "auto"

#: Any of these computes bfloat16 in hardware; elsewhere OpenVINO would emulate it.
BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to run a graph.

    Attributes:
        name: as options say it.
        targets: the graphs that it runs.
        package: what must be installed.
        oldest: its oldest version that does, as numbers.
        extra: the extra that brings it.
        precision: arithmetic that it was told to use; None is the graph's own.
        distribution: the package's name where it is installed from, if that is another.
        lacks: why libraries that it needs besides the package are not here, or None.
    """

    name: str
    targets: tuple[Target, ...]
    package: str
    oldest: tuple[int, ...]
    extra: str
    precision: str | None = None
    distribution: str | None = None
    lacks: Callable[[], str | None] | None = None

    @property
    def source(self) -> str:
        """What pip calls its package."""
        return self.distribution or self.package

    @property
    def on_gpu(self) -> bool:
        """Whether it needs an NVIDIA GPU."""
        return "cpu" not in self.targets


#: In the order of preference where nothing was measured. Of OpenVINO, 2026.4 is the oldest that was tried with opset 24.
PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            Provider("mlas", ("cpu",), "onnxruntime", (1, 23), "cpu"),
            Provider("openvino", ("cpu",), "openvino", (2026, 4), "openvino", "fp32"),
            Provider("openvino-bf16", ("cpu",), "openvino", (2026, 4), "openvino", "bf16"),
            Provider("cuda", ("cuda",), "onnxruntime", (1, 27), "nvidia", distribution="onnxruntime-gpu"),
            Provider("tensorrt", ("tensorrt",), "onnxruntime", (1, 27), "tensorrt", lacks=tensorrt_problem),
            Provider("tensorrt-rtx", ("tensorrt",), RTX_PACKAGE, (0, 5), "tensorrt-rtx", lacks=rtx_problem),
        )
    }
)


def check_provider(name: str) -> None:
    """
    Raises:
        InputError: there is no such provider.
    """
    if name != AUTO and name not in PROVIDERS:
        raise InputError(f"there is no provider {name!r}: use {', '.join([AUTO, *PROVIDERS])}")


def missing(provider: Provider, machine: Machine) -> str | None:
    """Why a provider cannot be used here, or None. Nothing is imported for the answer, though libraries may be."""
    if not _is_installed(provider):
        return f"{provider.source} is not installed: pip install 'longbow-fletcher[{provider.extra}]'"
    if (problem := too_old(provider)) is not None:
        return problem
    if provider.precision == "bf16" and not machine.instructions & BF16_INSTRUCTIONS:
        return "the processor has no bfloat16 arithmetic"
    if provider.lacks is not None and (problem := provider.lacks()) is not None:
        return problem
    return this_gpus().problem if provider.on_gpu else None


def too_old(provider: Provider) -> str | None:
    """That a provider's package is there and too old, or None."""
    found = _version(provider.source)
    if found is None or version_numbers(found) >= provider.oldest:
        return None
    wanted = ".".join(map(str, provider.oldest))
    return (
        f"{provider.source} {found} is too old, {wanted} is needed: "
        f"pip install --upgrade 'longbow-fletcher[{provider.extra}]'"
    )


def require(provider: Provider, machine: Machine) -> None:
    """
    Raises:
        MissingPackageError: the provider's package is not installed.
        ProviderError: it is too old, or the processor lacks the provider's arithmetic.
    """
    if not _is_installed(provider):
        raise MissingPackageError(provider.source, provider.extra, f"the provider {provider.name}")
    if (problem := missing(provider, machine)) is not None:
        raise ProviderError(f"the provider {provider.name} cannot be used here: {problem}")


def candidates(variant: Variant, machine: Machine) -> list[tuple[Provider, str | None]]:
    """The providers of a variant's target, each with why it cannot be used here or None."""
    return [
        (provider, missing(provider, machine)) for provider in PROVIDERS.values() if variant.target in provider.targets
    ]


def default_provider(target: Target) -> str:
    """The provider of a target that is taken where nothing was measured and none was named.

    Raises:
        ProviderError: none runs it.
    """
    for provider in PROVIDERS.values():
        if target in provider.targets:
            return provider.name
    raise ProviderError(f"no provider here runs the target {target}: load a cpu variant")


def choose_variant(artifact: Artifact, name: str | None, provider: str) -> Variant:
    """The graph that a provider shall run.

    Args:
        artifact: which has it.
        name: of the variant; None is the first that the provider runs.
        provider: one of `PROVIDERS`, or `auto`, which prefers a GPU.

    Raises:
        InputError: there is no such provider.
        ArtifactError: the artifact has no such variant, or none that the provider runs.
    """
    check_provider(provider)
    targets = runnable_targets() if provider == AUTO else PROVIDERS[provider].targets
    variant = artifact.variant(name, targets)
    if name is None and provider != AUTO and variant.target not in targets:
        raise ArtifactError(
            f"{artifact.path} has no variant that {provider} runs: export the checkpoint with --target {targets[0]}"
        )
    return variant


def runnable_targets() -> tuple[Target, ...]:
    """Targets that this machine runs, the preferred ones first: a GPU's before the processor's, which is always there."""
    machine = this_machine()
    found = [
        target
        for provider in PROVIDERS.values()
        if provider.on_gpu and missing(provider, machine) is None
        for target in provider.targets
    ]
    return (*dict.fromkeys(found), "cpu")


def _is_installed(provider: Provider) -> bool:
    """The module is there, and where it comes in several builds, the right one."""
    if provider.distribution is not None and _version(provider.distribution) is None:
        return False
    try:
        return importlib.util.find_spec(provider.package) is not None
    except (ModuleNotFoundError, ValueError):  # a hook that hides it, or a stand-in without a specification
        return False


def _version(package: str) -> str | None:
    """Of the distribution that brings a module: onnxruntime comes in two flavours."""
    for name in (package, f"{package}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def version_numbers(version: str) -> tuple[int, ...]:
    """`1.26.0rc1` is (1, 26)."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
