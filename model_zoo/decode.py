"""JSON and TOML of files and of other programs' answers, with one exception for all that is wrong with the text.

msgspec's releases differ in what they raise for bytes that are not UTF-8: `UnicodeDecodeError` up to 0.22, `DecodeError`
since. All of them raise `RecursionError` for JSON that is nested too deeply.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

__all__ = ["decode_json", "decode_toml"]

_T = TypeVar("_T")


def decode_json(data: bytes | str, kind: type[_T]) -> _T:
    """Return a JSON text as an instance of a type.

    Args:
        data: the text, in UTF-8 where it is bytes.
        kind: the type; `object` for JSON's own types.

    Raises:
        msgspec.DecodeError: the text is not UTF-8, not JSON, nested too deeply, or (`msgspec.ValidationError`) not of the
            type.
    """
    try:
        return msgspec.json.decode(_text(data), type=kind)
    except RecursionError:
        raise msgspec.DecodeError("JSON is nested too deeply") from None


def decode_toml(data: bytes | str, kind: type[_T]) -> _T:
    """Return a TOML text as an instance of a type.

    Args:
        data: the text, in UTF-8 where it is bytes.
        kind: the type; `object` for TOML's own types.

    Raises:
        msgspec.DecodeError: the text is not UTF-8, not TOML, nested too deeply, or (`msgspec.ValidationError`) not of the
            type.
    """
    try:
        return msgspec.toml.decode(_text(data), type=kind)
    except RecursionError:
        raise msgspec.DecodeError("TOML is nested too deeply") from None


def _text(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"is not UTF-8: {error}") from None
