"""Requirements of providers, compared with the installed packages and the machine."""

from __future__ import annotations

import importlib.util

from ..errors import MissingPackageError, ProviderError
from ..machine.machine import Machine
from ..versions import installed_version, version_numbers
from .provider import Needs, Provider

__all__ = ["missing", "require", "too_old"]


def missing(provider: Provider, machine: Machine) -> str | None:
    """Return the reason why a provider cannot be used on a machine, or None.

    The check does not import the package of the provider, except onnxruntime for CoreML on a Mac.
    """
    needs = provider.needs
    if not _is_installed(needs):
        return f"{needs.source} is not installed: pip install 'longbow-fletcher[{needs.extra}]'"
    if (problem := too_old(provider)) is not None:
        return problem
    return None if needs.problem is None else needs.problem(machine)


def too_old(provider: Provider) -> str | None:
    """Return a message if the package of a provider is installed and too old, else None."""
    needs = provider.needs
    version = _version(needs.source)
    if version is None or version_numbers(version) >= needs.oldest:
        return None
    oldest = ".".join(map(str, needs.oldest))
    return (
        f"{needs.source} {version} is too old, {oldest} is needed: "
        f"pip install --upgrade 'longbow-fletcher[{needs.extra}]'"
    )


def require(provider: Provider, machine: Machine) -> None:
    """Raise an error unless a provider can be used on a machine.

    Raises:
        MissingPackageError: the provider's package is not installed.
        ProviderError: the package is too old, or the machine lacks a requirement of the provider.
    """
    needs = provider.needs
    if not _is_installed(needs):
        raise MissingPackageError(needs.source, needs.extra, f"the provider {provider.name}")
    if (problem := missing(provider, machine)) is not None:
        raise ProviderError(f"the provider {provider.name} cannot be used here: {problem}")


def _is_installed(needs: Needs) -> bool:
    """Return whether the module is installed, and from the right distribution if the provider needs a certain one."""
    if needs.distribution is not None and _version(needs.distribution) is None:
        return False
    try:
        return importlib.util.find_spec(needs.package) is not None
    except (ModuleNotFoundError, ValueError):  # an import hook hides the module, or a test double has no specification
        return False


def _version(package: str) -> str | None:
    """Return the version of the distribution that contains a module; onnxruntime has two distributions."""
    return installed_version(package) or installed_version(f"{package}-gpu")
