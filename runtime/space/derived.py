"""Identifier of the vectors of one request: that of the model's space, and a suffix for options that change the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from fletcher.model_zoo.card import RAW, Output

from ..inputs import Requested
from ..options.embed import DEFAULT_INPUT_TYPE, EmbedOptions

__all__ = ["RequestSpaces"]


#: Hexadecimal digits of the digest of further outputs.
DIGITS: Final = 12

#: Number of different options of requests whose identifiers are remembered.
MOST_OPTIONS: Final = 256


class RequestSpaces:
    """Identifiers of the vectors that a model's requests get.

    A suffix follows the model's identifier, in this order: the input type, `.DIMENSIONS`, `.l2`, the treatment of long texts,
    `.tokens` or `.unscaled`, and each further output of BGE-M3 with a digest of its weights, such as `.sparse-0123456789ab`.
    Queries and documents are compared with each other, so both have the model's identifier, whatever their prompts. The
    element type has no suffix: it is an encoding of the same vector.

    Attributes:
        base: the identifier of the model's space.
    """

    def __init__(
        self,
        base: str,
        *,
        output: Output,
        dimension: int,
        normalized: bool,
        prompts: Mapping[str, str],
        token_heads: str = "",
    ) -> None:
        """Take what the suffixes depend on.

        Args:
            base: the identifier of the model's space.
            output: output of the model.
            dimension: length of a full vector.
            normalized: whether the model's vectors have length 1.
            prompts: prefix by input type.
            token_heads: digest of the weights of an embedder's further outputs; empty if it has none.
        """
        self.base: Final = base
        self._output = output
        self._dimension = dimension
        self._normalized = normalized
        self._prompts = prompts
        self._heads = token_heads[:DIGITS]
        compared = {prompts.get("query", ""), prompts.get(DEFAULT_INPUT_TYPE, "")}
        self._raw = "" if "" in compared else f".{RAW}"
        self._types = {name: "" if prompt in compared else f".{name}" for name, prompt in prompts.items()}
        #: `derive` for few different options: nearly all requests of a model have the same.
        self.of = lru_cache(MOST_OPTIONS)(self.derive)

    def derive(self, options: EmbedOptions, output: Requested = "vectors", *, has_ids: bool = False) -> str:
        """Return the identifier of the vectors that a request gets.

        Args:
            options: options of the request.
            output: the requested output, or several.
            has_ids: whether the request has token ids, which get no prompt.
        """
        suffix = self._raw if has_ids else self._typed(options.input_type)
        if options.dimensions is not None and options.dimensions != self._dimension:
            suffix += f".{options.dimensions}"
        if options.normalize and not self._normalized:
            suffix += ".l2"
        if options.overflow not in ("truncate", "refuse"):
            suffix += _of_long_texts(options)
        if self._heads and output != self._output:
            names = (output,) if isinstance(output, str) else output
            suffix += "".join(f".{name}-{self._heads}" for name in names if name != self._output)
        elif output != self._output:
            # Vectors before their scaling to length 1 are means of these states; see `ask_unscaled` in serve.
            suffix += ".unscaled" if options.normalize is False else ".tokens"
        return self.base + suffix

    def _typed(self, input_type: str | None) -> str:
        if input_type is None or input_type in ("query", DEFAULT_INPUT_TYPE):
            return ""
        return self._types.get(input_type, self._raw)


def _of_long_texts(options: EmbedOptions) -> str:
    if options.overflow == "truncate_left":
        return ".left"
    sizes = (options.window_tokens, options.overlap_tokens, options.chunk_tokens)
    if sizes == (None, None, None):
        return f".{options.overflow}"
    return f".{options.overflow}-" + "-".join("" if size is None else str(size) for size in sizes)
