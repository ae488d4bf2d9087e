"""What decides a text's vector besides the text and the model: one struct for every door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fletcher.model_zoo.card import INPUT_TYPES, RAW, ModelCard

from .errors import OptionError

__all__ = ["DTYPES", "OVERFLOWS", "DType", "EmbedOptions", "Overflow"]

#: What happens to a text that is longer than the model's longest input.
Overflow = Literal["truncate", "truncate_left", "refuse", "windows", "late"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

#: What a vector's elements leave as; sentence-transformers' names.
DType = Literal["float32", "float16", "int8", "ubinary"]
DTYPES: tuple[DType, ...] = get_args(DType)

DEFAULT_INPUT_TYPE = "document"

#: Tokens of a chunk in late chunking: about a paragraph.
CHUNK_TOKENS = 256

#: Share of a window that it has in common with the one before, where nothing else is said.
OVERLAP = 1 / 8


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How texts become vectors.

    Attributes:
        input_type: which prompt they get: "query", "document" (None), "clustering", "classification", another of the
            card's, or "raw" for none.
        dimensions: a Matryoshka length; None is the model's full one.
        dtype: `float32`; `float16`; `int8` with a scale a vector; `ubinary`, a bit an element.
        overflow: what happens to texts that are too long. `truncate` cuts the end, `truncate_left` the start, `refuse` is
            an error. `windows` embeds overlapping windows and averages them, weighted by their tokens. `late` (late
            chunking) lets each token see as much of the text as the model allows, and then averages each chunk's tokens.
        window_tokens: tokens of a window, special ones included; None is the model's longest input.
        overlap_tokens: tokens that a window shares with the one before; None is an eighth of it.
        chunk_tokens: tokens of a chunk (`late`); None is 256.
        normalize: whether vectors get L2 norm 1; None is as the model's authors publish them.
    """

    input_type: str | None = None
    dimensions: int | None = None
    dtype: DType = "float32"
    overflow: Overflow = "truncate"
    window_tokens: int | None = None
    overlap_tokens: int | None = None
    chunk_tokens: int | None = None
    normalize: bool | None = None

    @property
    def splits(self) -> bool:
        """Whether a text may become several chunks."""
        return self.overflow in ("windows", "late")

    def prompt(self, card: ModelCard) -> str:
        """The prefix that the texts get; empty where the model has none.

        Raises:
            OptionError: an input type that neither Fletcher nor the card knows.
        """
        input_type = DEFAULT_INPUT_TYPE if self.input_type is None else self.input_type
        if input_type == RAW:
            return ""
        if input_type not in card.prompts and input_type not in INPUT_TYPES:
            known = ", ".join(dict.fromkeys([*INPUT_TYPES, *card.prompts, RAW]))
            raise OptionError("input_type", f"input_type is {input_type!r}; {card.name} knows {known}")
        return card.prompts.get(input_type, "")

    def check(self, card: ModelCard, *, late: bool) -> None:
        """Refuses what the model does not have, before anything is computed.

        Args:
            card: the model's.
            late: whether its graph gives token states.

        Raises:
            OptionError: names the field, what was asked for and what there is.
        """
        self.prompt(card)
        if self.dimensions is not None and self.dimensions not in (card.dimension, *card.matryoshka):
            offered = ", ".join(map(str, dict.fromkeys([card.dimension, *card.matryoshka])))
            raise OptionError("dimensions", f"dimensions is {self.dimensions}; {card.name} gives vectors of {offered}")
        for field, value, known in (("dtype", self.dtype, DTYPES), ("overflow", self.overflow, OVERFLOWS)):
            if value not in known:
                raise OptionError(field, f"{field} is {value!r}: use one of {', '.join(known)}")
        if self.dtype == "ubinary" and (self.dimensions or card.dimension) % 8:
            raise OptionError("dtype", f"ubinary packs eight elements in a byte; {self.dimensions} is no multiple of 8")
        if self.normalize is False and card.normalize:
            raise OptionError(
                "normalize", f"normalize is false, but the vectors of {card.name} have length 1 by its own definition"
            )
        if self.overflow == "late" and not late:
            raise OptionError(
                "overflow",
                f"late chunking averages tokens, and {card.name} does not make its vectors of texts that way, "
                "or this variant does not give its token states: use windows",
            )
        for field in ("window_tokens", "overlap_tokens", "chunk_tokens"):
            self._check_number(field, card)

    def _check_number(self, field: str, card: ModelCard) -> None:
        value = getattr(self, field)
        if value is None:
            return
        if not self.splits or (field == "chunk_tokens" and self.overflow != "late"):
            raise OptionError(field, f"{field} says how to cut texts, and overflow={self.overflow!r} does not")
        lowest = 0 if field == "overlap_tokens" else 1
        highest = card.max_tokens if field == "window_tokens" else None
        if value < lowest or (highest is not None and value > highest):
            bound = f"from {lowest} to {highest}" if highest else f"at least {lowest}"
            raise OptionError(field, f"{field} is {value}: it must be {bound} for {card.name}")

    def window(self, card: ModelCard) -> int:
        """Tokens of a window, special ones included."""
        return card.max_tokens if self.window_tokens is None else self.window_tokens

    def overlap(self, card: ModelCard) -> int:
        """Tokens that a window shares with the one before."""
        return int(self.window(card) * OVERLAP) if self.overlap_tokens is None else self.overlap_tokens

    @property
    def chunk(self) -> int:
        """Tokens of a chunk."""
        return CHUNK_TOKENS if self.chunk_tokens is None else self.chunk_tokens
