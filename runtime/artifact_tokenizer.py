"""The tokenizer of an artifact, with all that the manifest says of it."""

from __future__ import annotations

from .artifact.folder import Artifact
from .tokenizing.tokenizer import Tokenizer

__all__ = ["open_tokenizer"]


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """Open an artifact's tokenizer, which cuts texts to the card's longest input.

    Raises:
        ArtifactError: the file cannot be read, or the longest input has no room beside the special tokens.
    """
    manifest = artifact.manifest
    return Tokenizer(artifact.tokenizer_file, manifest.card.max_tokens, strip=manifest.strips_texts)
