"""`EmbedOptions`: options that, with the text and the model, determine a vector. All entry points share them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypedDict, get_args

from msgspec import Meta

from fletcher.model_zoo.card import INPUT_TYPE_SYNONYMS, INPUT_TYPES, RAW, ModelCard, StaticQueries

from ..errors import OptionError
from .struct import Options

__all__ = [
    "DEFAULT_INPUT_TYPE",
    "DTYPES",
    "OVERFLOWS",
    "DType",
    "EmbedFields",
    "EmbedOptions",
    "InputType",
    "Normalize",
    "Overflow",
    "OverflowField",
    "VectorFields",
]

#: Treatment of a text that is longer than the model's longest input.
Overflow = Literal["truncate", "truncate_left", "refuse", "windows", "late"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

#: Type of a vector's elements, named as in sentence-transformers.
DType = Literal["float32", "float16", "int8", "ubinary"]
DTYPES: tuple[DType, ...] = get_args(DType)

InputType = Annotated[
    str | None,
    Meta(
        description="Purpose of the texts, which selects the model's prompt: `query`, `document`, `clustering`, "
        "`classification`, another prompt of the model's card, or `raw` for no prompt. Token ids get no prompt. "
        "`search_query`, `search_document`, `retrieval.query`, `retrieval.passage` and `passage` are understood as well. "
        "Default: document."
    ),
]

OverflowField = Annotated[
    Overflow,
    Meta(
        description="Treatment of a text that is longer than the model's longest input: `truncate` cuts its end "
        "(its start if the checkpoint's tokenizer says so), `truncate_left` its start, `refuse` is an error, `windows` "
        "averages the vectors of overlapping windows, weighted by their tokens, "
        "`late` (late chunking) averages token states chunk by chunk. `windows` and `late` also return `chunks`."
    ),
]

Normalize = Annotated[
    bool | None,
    Meta(description="Scale vectors to length 1. Default: as the model's authors publish them."),
]

#: Input type of a request that names none.
DEFAULT_INPUT_TYPE = "document"

#: Fields of `EmbedOptions.identity`, in their order in that text.
IDENTITY = (
    "input_type",
    "dimensions",
    "dtype",
    "overflow",
    "window_tokens",
    "overlap_tokens",
    "chunk_tokens",
    "normalize",
)

#: Tokens of a chunk in late chunking: about a paragraph.
CHUNK_TOKENS = 256

#: Share of a window's tokens that the window before it also has, if `overlap_tokens` is not set.
OVERLAP = 1 / 8


#: Special tokens around a text, and characters of a prompt for each of its tokens, in `EmbedOptions.step`.
SPECIAL_TOKENS, PROMPT_CHARACTERS = 2, 3


class VectorFields(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options that have the same names in every API that returns vectors."""

    PANEL: ClassVar[str | None] = "Embedding options"

    dimensions: Annotated[
        Annotated[int, Meta(ge=1, lt=1 << 31)] | None,
        Meta(
            description="Length of the vectors: the model's dimension or one of its Matryoshka dimensions, as "
            "`/v1/models` lists them. Default: the model's dimension."
        ),
    ] = None
    dtype: Annotated[
        DType,
        Meta(
            description="Type of a vector's elements: `float32`, `float16`, `int8` (multiplied by the vector's `scale`), or "
            "`ubinary` (one bit per element, eight in a byte). In base64 they are little-endian."
        ),
    ] = "float32"
    window_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Tokens of a window, special tokens included, for overflow `windows` and `late`. "
            "Default: the model's longest input."
        ),
    ] = None
    overlap_tokens: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Tokens that a window shares with the one before it, at most half a window. Default: an eighth of a "
            "window."
        ),
    ] = None
    chunk_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Tokens of a chunk for overflow `late`. Default: 256.")
    ] = None


class EmbedOptions(VectorFields, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`EmbedOptions`: options of embedding; `docs/reference/generated/options.md` lists the fields.

    Raises:
        OptionError: a value has a wrong type or is out of its bounds.
    """

    input_type: InputType = None
    overflow: OverflowField = "truncate"
    normalize: Normalize = None

    @property
    def splits(self) -> bool:
        """True if a text may become several chunks."""
        return self.overflow in ("windows", "late")

    @property
    def identity(self) -> str:
        """Text that is equal for equal options. Journals and content-based ids contain it, so its form never changes."""
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in IDENTITY)
        return f"EmbedOptions({fields})"

    def prompt(self, card: ModelCard) -> str:
        """Return the prompt to put before the texts; it is empty if the model has no prompt for the input type.

        Raises:
            OptionError: neither Fletcher nor the card defines the input type.
        """
        purpose = self.purpose(card)
        return "" if purpose == RAW else card.prompts.get(purpose, "")

    def purpose(self, card: ModelCard) -> str:
        """Return the name of the input type in the card or in Fletcher; `raw` if no prompt is wanted.

        Raises:
            OptionError: neither Fletcher nor the card defines the input type, or the weights are for another one alone.
        """
        if card.input_type:  # unset for nearly all models
            return self._only(card, card.input_type)
        input_type = DEFAULT_INPUT_TYPE if self.input_type is None else self.input_type
        if card.tasks:
            task = input_type if input_type in card.tasks else INPUT_TYPE_SYNONYMS.get(input_type, input_type)
            if task in card.tasks or task == RAW:
                return task
            available = ", ".join(dict.fromkeys([*card.tasks, RAW]))
            raise OptionError("input_type", f"input_type is {input_type!r}; {card.name} has {available}")
        if input_type in card.prompts or input_type in INPUT_TYPES or input_type == RAW:
            return input_type
        if (meant := INPUT_TYPE_SYNONYMS.get(input_type)) is None:
            available = ", ".join(dict.fromkeys([*INPUT_TYPES, *card.prompts, RAW]))
            raise OptionError("input_type", f"input_type is {input_type!r}; {card.name} has {available}")
        return meant

    def reads_static(self, card: ModelCard) -> bool:
        """Return whether the texts are queries that need no model.

        Raises:
            OptionError: neither Fletcher nor the card defines the input type.
        """
        settings = card.static_queries
        if not isinstance(settings, StaticQueries):
            return False
        purpose = self.purpose(card)
        return purpose == "query" or (purpose != "document" and settings.others)

    def _only(self, card: ModelCard, own: str) -> str:
        """Return the input type for a model whose weights are for one alone."""
        asked = own if self.input_type is None else self.input_type
        if asked in (own, RAW) or INPUT_TYPE_SYNONYMS.get(asked) == own:
            return own if asked != RAW else RAW
        raise OptionError(
            "input_type",
            f"input_type is {asked!r}; the weights of {card.name} are those of {own} alone: ask another model",
        )

    def check(self, card: ModelCard, *, late: bool) -> None:
        """Raise an error if the model does not have one of these options, before anything is computed.

        Args:
            card: the model's card.
            late: whether the model's graph gives token states.

        Raises:
            OptionError: the model does not have an option; the message names the field, its value and the values that exist.
        """
        self.prompt(card)
        if self.dimensions is not None and self.dimensions not in (card.dimension, *card.matryoshka):
            offered = ", ".join(map(str, dict.fromkeys([card.dimension, *card.matryoshka])))
            raise OptionError("dimensions", f"dimensions is {self.dimensions}; {card.name} gives vectors of {offered}")
        if self.dtype == "ubinary" and (self.dimensions or card.dimension) % 8:
            raise OptionError(
                "dtype",
                f"ubinary packs eight elements in a byte; {self.dimensions or card.dimension} is not a multiple of 8",
            )
        if self.normalize is False and card.normalize:
            raise OptionError(
                "normalize", f"normalize is false, but {card.name} is defined to give vectors of length 1"
            )
        if self.overflow == "late" and not late:
            raise OptionError(
                "overflow",
                f"late chunking averages token states, but {card.name} has no mean pooling, or this variant does not give "
                "token states: use windows",
            )
        if (self.splits or self.overflow == "truncate_left") and card.include_prompt is False:
            raise OptionError(
                "overflow",
                f"{card.name} leaves the prompt out of its vectors, and finds it at the beginning of the text only: "
                "truncate at the end",
            )
        if self.splits and self.reads_static(card):
            raise OptionError(
                "overflow",
                f"queries of {card.name} need no model and are read whole: {self.overflow} is for its documents",
            )
        for field in ("window_tokens", "overlap_tokens", "chunk_tokens"):
            self._check_cut(field)
        if self.window_tokens is not None and self.window_tokens > card.max_tokens:
            raise OptionError(
                "window_tokens",
                f"window_tokens is {self.window_tokens}: it must be from 1 to {card.max_tokens} for {card.name}",
            )
        if self.splits and self.overlap(card) > (most := self.window(card) // 2):
            raise OptionError(
                "overlap_tokens",
                f"overlap_tokens is {self.overlap_tokens}: it must be at most half a window, {most} tokens, because every "
                "token of a text would be computed more than twice",
            )

    def _check_cut(self, field: str) -> None:
        if getattr(self, field) is None:
            return
        if not self.splits or (field == "chunk_tokens" and self.overflow != "late"):
            raise OptionError(
                field, f"{field} sets how texts are cut, and overflow={self.overflow!r} does not cut them"
            )

    def window(self, card: ModelCard) -> int:
        """Return the number of tokens of a window, special tokens included."""
        return card.max_tokens if self.window_tokens is None else self.window_tokens

    def overlap(self, card: ModelCard) -> int:
        """Return the number of tokens that a window shares with the one before."""
        return int(self.window(card) * OVERLAP) if self.overlap_tokens is None else self.overlap_tokens

    def step(self, card: ModelCard) -> int:
        """Return about the number of new tokens of a text in each window, at least 1.

        The tokens of the prompt and the special tokens are estimated, because the tokenizer alone knows their number.
        """
        own = self.window(card) - self.overlap(card) - SPECIAL_TOKENS - len(self.prompt(card)) // PROMPT_CHARACTERS
        return max(own, 1)

    @property
    def chunk(self) -> int:
        """Number of tokens of a chunk."""
        return CHUNK_TOKENS if self.chunk_tokens is None else self.chunk_tokens


class EmbedFields(TypedDict, total=False):
    """Fields of `EmbedOptions` as keyword arguments, for type checkers. A test checks that both have the same fields."""

    dimensions: int | None
    dtype: DType
    window_tokens: int | None
    overlap_tokens: int | None
    chunk_tokens: int | None
    input_type: str | None
    overflow: Overflow
    normalize: bool | None
