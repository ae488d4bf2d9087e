"""Comparison of an artifact's digest with the one that its user knows from another place."""

from __future__ import annotations

from ..artifact.folder import Artifact
from ..errors import ChecksumError

__all__ = ["check_digest"]


def check_digest(artifact: Artifact, expected: str | None) -> None:
    """Raise an error if the artifact has another digest.

    Args:
        artifact: the artifact; its files are compared with its manifest separately.
        expected: 64 hexadecimal digits, perhaps after `sha256:`; None accepts every digest.

    Raises:
        ChecksumError: the digests differ.
    """
    if expected is not None and artifact.digest != expected.removeprefix("sha256:"):
        raise ChecksumError(
            f"{artifact.path} has the digest sha256:{artifact.digest}, and sha256:{expected.removeprefix('sha256:')} is "
            "required: get the artifact again, or ask for its origin"
        )
