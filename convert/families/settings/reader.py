"""Strict reading of `config.json`: a key that may change the computation and is not understood is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError

from ...checkpoint.checkpoint import Checkpoint
from .harmless_keys import HARMLESS, check_types

__all__ = ["Config"]

#: Keys that must have these neutral values, if they are in the file.
NEUTRAL: Mapping[str, object] = {
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "pruned_heads": {},
}


class Config:
    """`config.json` whose keys are read one by one; `finish` refuses the keys that were not read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._values = checkpoint.config
        self._ignored = checkpoint.ignored
        self._file = checkpoint.folder / "config.json"
        self._asked = set(HARMLESS)
        check_types(self._file, self._values)
        for key, neutral in NEUTRAL.items():
            self.must_be(key, neutral)
        # transformers fails where a larger number does not divide the tokens of a text.
        self.must_be("chunk_size_feed_forward", 0, 1)
        if _has_content(self.value("adapters")):
            raise self.refusal("adapters are added to its layers (adapter-transformers), which Fletcher does not do")

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer.

        Raises:
            CheckpointError: the key is missing and has no default, or its value is not a positive integer.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self._file}: {key} is {value!r}, where a positive integer was expected")
        return value

    def count(self, key: str, default: int) -> int:
        """Return an integer that may be 0, such as a token id.

        Raises:
            CheckpointError: the value is negative or not an integer.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CheckpointError(f"{self._file}: {key} is {value!r}, where 0 or a positive integer was expected")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive real number.

        Raises:
            CheckpointError: the key is missing and has no default, or its value is not a positive number.
        """
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{self._file}: {key} is {value!r}, where a positive number was expected")
        return float(value)

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key as it is; the caller checks it."""
        self._asked.add(key)
        return self._values.get(key, default)

    def ignore(self, *keys: str) -> None:
        """Mark keys as read: they concern training, or heads that no embedding uses."""
        self._asked.update(keys)

    @property
    def file(self) -> Path:
        """The file, for messages."""
        return self._file

    def where(self, key: str) -> str:
        """Return file and key, for messages."""
        return f"{self._file}: {key}"

    def refusal(self, reason: str) -> CheckpointError:
        """Return the error to raise for a reason that concerns several keys."""
        return CheckpointError(f"{self._file}: {reason}")

    def must_be(self, key: str, *allowed: object) -> None:
        """Check a key whose value Fletcher authors in a few cases only.

        Raises:
            CheckpointError: the key is in the file and has another value than the allowed ones.
        """
        self._asked.add(key)
        if key in self._values and self._values[key] not in allowed:
            values = " or ".join(map(repr, allowed))
            raise CheckpointError(
                f"{self._file}: {key} is {self._values[key]!r}; Fletcher authors this family with {values} only"
            )

    def finish(self) -> None:
        """Refuse a configuration with keys that were not read.

        Raises:
            CheckpointError: a key was not read, so it may change the computation.
        """
        if unknown := self._ignored.refused(set(self._values) - self._asked):
            raise CheckpointError(
                f"{self._file} has keys that Fletcher does not know for this family: {', '.join(unknown)}. They may change "
                f"the vectors, so the checkpoint is not converted. If they do not, declare that with --ignore-key "
                f"{unknown[0]}"
            )

    def _get(self, key: str, default: object) -> object:
        self._asked.add(key)
        if key not in self._values and default is None:
            raise CheckpointError(f"{self._file} lacks {key}")
        return self._values.get(key, default)


def _has_content(value: object) -> bool:
    """Return whether a JSON value holds anything but nulls inside its objects and lists."""
    if isinstance(value, dict):
        return any(map(_has_content, value.values()))
    return any(map(_has_content, value)) if isinstance(value, list) else value is not None
