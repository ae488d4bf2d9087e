"""JSON files of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError

__all__ = ["find_json", "read_json"]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file does not exist, or does not hold a JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file.parent} has no {file.name}: is it a HuggingFace checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds {type(value).__name__}, where a JSON object was expected")
    return value


def find_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; return no keys if there is no such file.

    Raises:
        CheckpointError: the file does not hold a JSON object.
    """
    return read_json(file) if file.is_file() else {}
