"""The fields of requests that say how texts become vectors: the same on every route, described once."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from fletcher.runtime.embed_options import DType, EmbedOptions, Overflow

__all__ = ["InputType", "OptionFields", "OverflowField"]

InputType = Annotated[
    str | None,
    Meta(
        description="Which prompt of the model's the texts get: `query`, `document` (if left out), `clustering`, "
        "`classification`, another of its card, or `raw` for none. Token ids get none."
    ),
]

OverflowField = Annotated[
    Overflow,
    Meta(
        description="What happens to a text that is too long: `truncate` cuts its end, `truncate_left` its start, "
        "`refuse` is an error, `windows` averages overlapping windows, `late` averages tokens chunk by chunk. The last two "
        "give `chunks`."
    ),
]


class OptionFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every route that gives vectors takes."""

    dimensions: Annotated[
        Annotated[int, Meta(ge=1, lt=1 << 31)] | None,
        Meta(description="One of the lengths that `/v1/models` lists; the model's full one if left out."),
    ] = None
    dtype: Annotated[
        DType,
        Meta(
            description="What a vector's elements are: `float32`, `float16`, `int8` (times the item's `scale`), or "
            "`ubinary`, a bit an element in bytes. In base64 they are little-endian."
        ),
    ] = "float32"
    window_tokens: Annotated[
        int | None,
        Meta(description="Tokens of a window, special ones included; the model's longest input if left out."),
    ] = None
    overlap_tokens: Annotated[
        int | None, Meta(description="Tokens that a window shares with the one before; an eighth if left out.")
    ] = None
    chunk_tokens: Annotated[int | None, Meta(description="Tokens of a chunk of `late`; 256 if left out.")] = None

    def embed_options(self, input_type: str | None, overflow: Overflow, normalize: bool | None) -> EmbedOptions:
        """How its texts become vectors."""
        return EmbedOptions(
            input_type,
            self.dimensions,
            self.dtype,
            overflow,
            self.window_tokens,
            self.overlap_tokens,
            self.chunk_tokens,
            normalize,
        )
