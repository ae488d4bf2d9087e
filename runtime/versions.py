"""Version numbers of installed packages, as tuples that can be compared."""

from __future__ import annotations

from importlib import metadata

__all__ = ["installed_version", "version_numbers"]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `1.26.0rc1` is (1, 26)."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
