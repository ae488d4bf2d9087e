"""`Options`: base class of option structs. Each field states its type, bounds and description in one place.

A field is written once, as `Annotated[type, Meta(description=…, ge=…)]`. The struct checks its value,
`commandline/struct_options.py` makes a command line option of it, and msgspec reads it from TOML and JSON and writes its JSON
Schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from numbers import Integral
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ..errors import OptionError

__all__ = ["Field", "Options", "fields_of"]


@dataclass(frozen=True, slots=True)
class Field:
    """One option of a struct.

    Attributes:
        name: name of the field.
        hint: annotation of the field, with bounds and description.
        type: type of the field without annotations, for example `int | None`.
        meta: description and bounds.
        default: default value; `msgspec.NODEFAULT` if the option is required.
    """

    name: str
    hint: Any
    type: Any
    meta: Meta
    default: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values that a Literal allows; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def problem(self, value: Any) -> str | None:
        """Return the rule that a value breaks, as text for a message, or None if the value is allowed."""
        try:
            msgspec.convert(value, self.hint)
        except msgspec.ValidationError:
            return self._rule()
        return None

    def _rule(self) -> str:
        if self.choices:
            return f"use one of {', '.join(map(str, self.choices))}"
        types = [_WORDS[kind] for kind in get_args(self.type) or (self.type,) if kind in _WORDS]
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (
                ("at least", self.meta.ge),
                ("more than", self.meta.gt),
                ("at most", self.meta.le),
                ("less than", self.meta.lt),
            )
            if bound is not None
        ]
        return f"it must be {' or '.join(types)}{', ' if bounds else ''}{' and '.join(bounds)}"


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base class of option structs: immutable, with keyword arguments only, and checked when made.

    Raises:
        OptionError: a value has the wrong type or is out of bounds; the error's `field` is the option's name.
    """

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            if value is field.default:
                continue  # saves the check for most fields of most requests
            if isinstance(value, Integral) and not isinstance(value, int):
                value = int(value)  # numpy's integers are allowed, but `repr` and JSON must show Python's
                msgspec.structs.force_setattr(self, field.name, value)
            elif isinstance(value, list) and get_origin(field.type) is tuple:  # from a command line
                value = tuple(value)
                msgspec.structs.force_setattr(self, field.name, value)
            if (problem := field.problem(value)) is not None:
                raise OptionError(field.name, f"{field.name} is {value!r}: {problem}")

    @classmethod
    def of(cls, source: Any, **changes: Any) -> Self:
        """Return options of this class with the values of another struct's fields.

        Args:
            source: a struct with fields of the same names. Fields that it lacks have their defaults.
            changes: values of fields, which replace those of `source`.
        """
        shared = {name: getattr(source, name) for name in cls.__struct_fields__ if hasattr(source, name)}
        return cls(**(shared | changes))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values in some fields.

        Raises:
            OptionError: a value is not allowed.
            TypeError: a name in `changes` is not a field.
        """
        return msgspec.structs.replace(self, **changes)


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of a struct in the order of their definition."""
    hints = get_type_hints(struct, include_extras=True)
    fields = []
    for info in msgspec.structs.fields(struct):
        kind, meta = _split(hints[info.name])
        default = info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
        fields.append(Field(info.name, hints[info.name], kind, meta, default))
    return tuple(fields)


def _split(hint: Any) -> tuple[Any, Meta]:
    """Return a type without its annotations, and one `Meta` with the description and bounds of all `Meta` in it.

    If several of them set the same field, the outermost one counts.
    """
    meta: dict[str, Any] = {}

    def strip(kind: Any) -> Any:
        if get_origin(kind) is Annotated:
            for annotation in kind.__metadata__:
                for name in ("description", "ge", "gt", "le", "lt", "extra"):
                    if (value := getattr(annotation, name, None)) is not None:
                        meta.setdefault(name, value)
            return strip(kind.__origin__)
        if get_origin(kind) in (Union, UnionType):
            return Union[tuple(strip(part) for part in get_args(kind))]  # noqa: UP007 (the parts are not known here)
        return kind

    return strip(hint), Meta(**meta)
