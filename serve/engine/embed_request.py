"""`EmbedRequest`: one request to a model as plain data.

It can be encoded with msgspec or pickled, priced, logged, limited, queued, repeated, and sent to another process. The record
and the trace of a request belong to this process, so they are not a part of it. `Engine.submit` takes them as a separate
`RecordDraft`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fletcher.runtime.inputs import Inputs, Requested
from fletcher.runtime.options.embed import EmbedOptions

from .terms import USUAL, Terms

__all__ = ["PLAIN", "EmbedRequest", "refusing_long"]

PLAIN: Final = EmbedOptions()

#: Values of `overflow` that cut a long text.
CUTTING: Final = ("truncate", "truncate_left")


def refusing_long(options: EmbedOptions) -> EmbedOptions:
    """Return the same options, but with an error for a long text instead of its truncation."""
    return options.replace(overflow="refuse") if options.overflow in CUTTING else options


class EmbedRequest(msgspec.Struct, frozen=True):
    """A request to a model.

    Attributes:
        inputs: texts, token ids, or pairs of a query and documents.
        options: options for embedding.
        output: the requested output: `vectors`, `scores`, `sparse`, or `token_vectors` (an embedder's token states); or
            several of one pass, for a model that gives them (`ModelInfo.token_dimension`).
        terms: priority, client and deadline.
    """

    inputs: Inputs
    options: EmbedOptions = PLAIN
    output: Requested = "vectors"
    terms: Terms = USUAL

    def refusing_long(self) -> EmbedRequest:
        """Return the same request, but with an error for a long text instead of its truncation."""
        options = refusing_long(self.options)
        return self if options is self.options else msgspec.structs.replace(self, options=options)
