"""The execution providers that Fletcher knows, and why one cannot be used here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

from .errors import InputError, MissingPackageError, ProviderError
from .machine import Machine
from .manifest import Target, Variant
from .tensorrt_libraries import RTX_PACKAGE, rtx_problem, tensorrt_problem

__all__ = ["AUTO", "PROVIDERS", "Provider", "candidates", "check_provider", "missing", "require"]

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
        lacks: why libraries that it needs besides the package are not here, or None.
    """

    name: str
    targets: tuple[Target, ...]
    package: str
    oldest: tuple[int, ...]
    extra: str
    precision: str | None = None
    lacks: Callable[[], str | None] | None = None


#: In the order of preference where nothing was measured. Of OpenVINO, 2026.4 is the oldest that was tried with opset 24.
PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            Provider("mlas", ("cpu",), "onnxruntime", (1, 23), "cpu"),
            Provider("openvino", ("cpu",), "openvino", (2026, 4), "openvino", "fp32"),
            Provider("openvino-bf16", ("cpu",), "openvino", (2026, 4), "openvino", "bf16"),
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
    if not _is_installed(provider.package):
        return f"{provider.package} is not installed: pip install 'longbow-fletcher[{provider.extra}]'"
    found = _version(provider.package)
    if found is not None and _numbers(found) < provider.oldest:
        wanted = ".".join(map(str, provider.oldest))
        return (
            f"{provider.package} {found} is too old, {wanted} is needed: "
            f"pip install --upgrade 'longbow-fletcher[{provider.extra}]'"
        )
    if provider.precision == "bf16" and not machine.instructions & BF16_INSTRUCTIONS:
        return "the processor has no bfloat16 arithmetic"
    return None if provider.lacks is None else provider.lacks()


def require(provider: Provider, machine: Machine) -> None:
    """
    Raises:
        MissingPackageError: the provider's package is not installed.
        ProviderError: it is too old, or the processor lacks the provider's arithmetic.
    """
    if importlib.util.find_spec(provider.package) is None:
        raise MissingPackageError(provider.package, provider.extra, f"the provider {provider.name}")
    if (problem := missing(provider, machine)) is not None:
        raise ProviderError(f"the provider {provider.name} cannot be used here: {problem}")


def candidates(variant: Variant, machine: Machine) -> list[tuple[Provider, str | None]]:
    """The providers of a variant's target, each with why it cannot be used here or None."""
    return [
        (provider, missing(provider, machine)) for provider in PROVIDERS.values() if variant.target in provider.targets
    ]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
