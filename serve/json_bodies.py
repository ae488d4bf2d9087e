"""Decoding of JSON requests into structs, with errors that name the field. HTTP and Flight both use it."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from .errors import FieldError
from .surrogates import find_lone_surrogate

__all__ = ["decode", "invalid"]

T = TypeVar("T")

_path = re.compile(r"^(?P<problem>.*) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_named = re.compile(r"(?:unknown|missing required) field `(?P<field>.*)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a request's JSON.

    Args:
        decoder: msgspec's decoder of the request's struct.
        body: the JSON, in UTF-8.

    Returns:
        The request.

    Raises:
        FieldError: the body is not JSON, a string has a lone surrogate, or it does not match the struct; the error names the
            field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (place := find_lone_surrogate(body)) is not None:
            raise FieldError(
                f"{place}: a lone surrogate, half of a character such as an emoji: cut texts between characters", place
            ) from None
        raise FieldError(f"the body is not valid JSON in UTF-8: {error}", None) from None


def invalid(error: msgspec.ValidationError) -> FieldError:
    """Return an error with msgspec's message and the field that it names."""
    message, field = str(error), None
    if match := _path.match(message):
        message, field = match["problem"], match["path"] or None
    elif match := _named.search(message):
        field = match["field"]
    return FieldError(f"{field or 'the body'}: {message}", field)
