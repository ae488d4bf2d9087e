"""The version of transformers that the artifact's tokenizer follows, where versions 4 and 5 give different token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fletcher.runtime.errors import CheckpointError

from .json_files import find_json

__all__ = ["TokenizerLike", "explain_versions", "named_version", "read_version", "strips_texts"]

#: Major version of transformers.
TokenizerLike = Literal["4", "5"]

#: Newest major version of transformers whose tokenizers Fletcher reproduces.
NEWEST = 5


def named_version(folder: Path, config: Mapping[str, Any]) -> TokenizerLike:
    """Return the version that the checkpoint's files name; 4 if they name none, as transformers before 4.6 wrote none.

    Args:
        folder: the checkpoint.
        config: its config.json.

    Raises:
        CheckpointError: the files name a version that Fletcher does not know.
    """
    places = (
        ("tokenizer_config.json", find_json(folder / "tokenizer_config.json").get("transformers_version")),
        ("config_sentence_transformers.json", _versions(folder).get("transformers")),
        ("config.json", config.get("transformers_version")),
    )
    for name, version in places:
        major = _major(version)
        if major is not None and major > NEWEST:
            raise CheckpointError(
                f"{folder / name} names transformers {version}, whose tokenizers Fletcher does not know: choose the version "
                f"to follow with --tokenizer-like {NEWEST}"
            )
        if major is not None:
            return "5" if major == NEWEST else "4"
    return "4"


def explain_versions(written: str | None, installed: str) -> str:
    """Return the next step where an artifact was compared with another version of transformers than it follows, or nothing.

    Args:
        written: `tokenizer_like` of the artifact's manifest.
        installed: version of transformers that it was compared with.
    """
    like, major = read_version(written), installed.partition(".")[0]
    if like is None or like == major:
        return ""
    return (
        f"The artifact gives the token ids of transformers {like} (tokenizer_like in its manifest), and was compared with "
        f"transformers {installed}: to have the ids of the latter, convert the checkpoint with --tokenizer-like {major}; to "
        f"check those of the former, compare in an environment with transformers {like}"
    )


def read_version(written: str | None) -> TokenizerLike | None:
    """Return the version in a manifest's `tokenizer_like`, such as `transformers 4`; None if there is none."""
    number = (written or "").removeprefix("transformers ")
    return "4" if number == "4" else "5" if number == "5" else None


def strips_texts(folder: Path, chosen: TokenizerLike | None, like: TokenizerLike) -> bool:
    """Return whether sentence-transformers removes the blanks around a text: version 5 and older do, 6 does not.

    A checkpoint without sentence-transformers' modules is compared with transformers, which removes none.
    Source: `Transformer.tokenize` of sentence-transformers 5.1, and its absence in 6.

    Args:
        folder: the checkpoint.
        chosen: version of transformers that the user chose; the sentence-transformers of its time is meant.
        like: version of transformers that the artifact follows.
    """
    if not (folder / "modules.json").is_file():
        return False
    major = _major(_versions(folder).get("sentence_transformers"))
    if chosen is not None or major is None:
        return like == "4"
    return major <= 5


def _versions(folder: Path) -> Mapping[str, Any]:
    """Return the versions that sentence-transformers wrote into its settings."""
    versions = find_json(folder / "config_sentence_transformers.json").get("__version__")
    return versions if isinstance(versions, dict) else {}


def _major(version: Any) -> int | None:
    """Return the major version of a version such as `4.57.1`."""
    number = version.partition(".")[0] if isinstance(version, str) else ""
    return int(number) if number.isdecimal() else None
