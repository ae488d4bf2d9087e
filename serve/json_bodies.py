"""Decoding of JSON requests into structs, with errors that name the field. HTTP and Flight both use it.

A body that matches its struct is decoded once. Only a body that does not match is read again: null in an optional field is
the same as a field that is left out, and an HTTP API may translate fields of other servers. Other requests do not pay for
these rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec

from .errors import FieldError
from .surrogates import find_lone_surrogate

__all__ = ["Translate", "decode", "invalid", "without_nulls"]

T = TypeVar("T")

#: Function that replaces fields of other servers in a decoded body by fields of its struct, in place.
Translate = Callable[[dict[str, Any]], None]

_path = re.compile(r"^(?P<problem>.*) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_named = re.compile(r"(?:unknown|missing required) field `(?P<field>.*)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, translate: Translate | None = None) -> T:
    """Decode a request's JSON.

    Args:
        decoder: msgspec's decoder of the request's struct.
        body: the JSON, in UTF-8.
        translate: replaces fields of other servers; it is called only for a body that does not match the struct.

    Returns:
        The request.

    Raises:
        FieldError: the body is not JSON, a string has a lone surrogate, or it does not match the struct; the error names the
            field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if translate is None and b"null" not in body:
            raise invalid(error) from None
        return _decode_again(decoder, body, translate, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (place := find_lone_surrogate(body)) is not None:
            raise FieldError(
                f"{place}: a lone surrogate, half of a character such as an emoji: cut texts between characters", place
            ) from None
        raise FieldError(f"the body is not valid JSON in UTF-8: {error}", None) from None


#: Decoder of a value of any type.
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def _decode_again(
    decoder: msgspec.json.Decoder[T], body: bytes, translate: Translate | None, first: msgspec.ValidationError
) -> T:
    """Decode a body that does not match its struct as it is.

    Args:
        decoder, body, translate: as for `decode`.
        first: the error of the body as it is.

    Raises:
        FieldError: the body does not match the struct without its nulls and foreign fields either.
    """
    try:
        raw = _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # behind the place of the first error
        raise invalid(first) from None
    value = without_nulls(raw, decoder.type)
    try:
        if translate is not None and isinstance(value, dict):
            translate(value)
        request: T = msgspec.convert(value, decoder.type)
        return request
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def without_nulls(value: Any, kind: Any) -> Any:
    """Return a decoded body without the nulls of optional fields, also in nested objects.

    Args:
        value: decoded value of any type.
        kind: type of the value.
    """
    return _without_nulls(value, _described(kind))


@cache
def _described(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _without_nulls(value: Any, kind: msgspec.inspect.Type) -> Any:
    match kind:
        case msgspec.inspect.Metadata():
            return _without_nulls(value, kind.type)
        case msgspec.inspect.UnionType() if isinstance(value, dict | list):
            for part in kind.types:
                value = _without_nulls(value, part)
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() if isinstance(value, list):
            return [_without_nulls(item, kind.item_type) for item in value]
        case msgspec.inspect.StructType() if isinstance(value, dict):
            fields = {field.encode_name: field for field in kind.fields}
            return {
                name: _without_nulls(item, fields[name].type) if name in fields else item
                for name, item in value.items()
                if item is not None or (name in fields and fields[name].required)
            }
        case _:
            pass
    return value


def invalid(error: msgspec.ValidationError) -> FieldError:
    """Return an error with msgspec's message and the field that it names."""
    message, field = str(error), None
    if match := _path.match(message):
        message, field = match["problem"], match["path"] or None
    elif match := _named.search(message):
        field = match["field"]
    return FieldError(f"{field or 'the body'}: {message}", field)
