"""Versions of installed packages, and version numbers as tuples that can be compared."""

from __future__ import annotations

from importlib import metadata

__all__ = ["installed_version", "version_numbers"]


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the first three parts of a version that are whole numbers: `1.26.0rc1` gives (1, 26)."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
