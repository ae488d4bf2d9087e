"""`read_secret`: a secret from an option or from a file. A command line shows its arguments to every user of the machine."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..os_errors import explain

__all__ = ["read_secret"]


def read_secret(value: str | None, file: str | None, option: str) -> str | None:
    """Return a secret.

    Args:
        value: the secret, or None.
        file: file whose first line is the secret, or None.
        option: name of the option of the file, for the error.

    Returns:
        The secret of the file, else the value.

    Raises:
        InputError: the file cannot be read, or its first line is empty.
    """
    if file is None:
        return value
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{option} {file} cannot be read: {explain(error)}") from error
    except UnicodeDecodeError:
        raise InputError(f"{option} {file} is not text in UTF-8") from None
    if not lines or not lines[0].strip():
        raise InputError(f"{option} {file} has an empty first line, which must be the secret")
    return lines[0].strip()
