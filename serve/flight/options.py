"""Parsing of the options in Flight's descriptors and metadata, and of `DoGet` tickets."""

from __future__ import annotations

import msgspec

from ..arrow.options import ArrowOptions
from ..errors import FieldError
from ..json_bodies import decode
from ..models.registry import ANSWERED_BY, Models

__all__ = ["read_options", "read_ticket"]


class _Ticket(ArrowOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `DoGet` ticket."""

    texts: list[str]


_options = msgspec.json.Decoder(ArrowOptions)
_ticket = msgspec.json.Decoder(_Ticket)


def read_ticket(data: bytes, models: Models) -> tuple[list[str], ArrowOptions]:
    """Read and check a ticket.

    Args:
        data: JSON.
        models: models of the server.

    Returns:
        The texts and the options.

    Raises:
        InputError, UnknownModelError: as for `read_options`.
    """
    try:
        ticket = decode(_ticket, data)
    except FieldError as error:
        raise FieldError(
            f'the ticket cannot be used: {error}. It must be JSON such as {{"texts": ["a text"]}}', error.field
        ) from None
    check_options(ticket, models)
    return ticket.texts, ticket


def read_options(data: bytes, models: Models) -> ArrowOptions:
    """Read and check options.

    Args:
        data: JSON.
        models: models of the server.

    Raises:
        InputError: the data are not JSON, or a field or a value cannot be used with the model.
        UnknownModelError: the server has no model of that name.
    """
    try:
        options = decode(_options, data)
    except FieldError as error:
        raise FieldError(
            f'the options cannot be used: {error}. They must be JSON such as {{"column": "text"}}', error.field
        ) from None
    check_options(options, models)
    return options


def check_options(options: ArrowOptions, models: Models) -> None:
    """Check options against their model.

    Raises:
        InputError: the model does not support an option.
        UnknownModelError: the server has no model of that name.
    """
    version = models.pick(options.model, ANSWERED_BY[options.output])
    (version.engine or version.wake()).backend.info.check_request(options.embed, options.output)
