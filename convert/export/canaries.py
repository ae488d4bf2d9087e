"""Command that computes a card's canary: texts, token ids and vectors by the HuggingFace model in float32.

    python -m fletcher.convert.export.canaries all-MiniLM-L6-v2 [--source SOURCE] [--output FILE]

It runs once for a card. Its result is committed beside the cards, so that a conversion can be checked without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import fletcher.model_zoo
from fletcher.model_zoo import fetch, load_card
from fletcher.runtime import Encodings
from fletcher.runtime.canary import Canary, write_canary
from fletcher.runtime.errors import CheckpointError, FletcherError

from ..reference.load import load_witness
from ..reference.witness import Witness
from ..texts import EDGES, SENTENCES, text_of_length

__all__ = ["canary_texts", "make_canary"]

#: Tokens of the longer texts: around powers of two, where kernels change their algorithm.
LENGTHS = (15, 16, 17, 33, 64, 127)

#: Tokens of the longest text, unless the model's limit is lower. A canary runs at every load, and 8,192 tokens through bge-m3
#: would delay each start by minutes.
LONGEST = 512

#: Of the built-in texts: one token, empty, blank, control characters, marks, emoji, outside the basic plane; then languages.
CHOSEN_EDGES = (
    "",
    " ",
    "a",
    "a\x00b\x01c\x1f\x7f\x85d",
    "👩‍👩‍👧‍👦 🇨🇭 🏳️‍🌈 👍🏽",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎 𓀀",
    "-1.5e-07, 0x1F, 1_000_000, ∞",
)
CHOSEN_SENTENCES = (0, 1, 4, 10, 16, 19, 21, 24, 26)


def canary_texts(reference: Witness) -> list[str]:
    """Return about two dozen texts, prompts included; the last is truncated unless the limit exceeds `LONGEST`."""
    texts = [text for text in EDGES if text in CHOSEN_EDGES] + [SENTENCES[index] for index in CHOSEN_SENTENCES]
    limit = reference.card.max_tokens
    for start, length in enumerate(LENGTHS):
        if length < limit:
            texts.append(text_of_length(length, reference.count_tokens, start=5 * start))
    texts += [prompt + SENTENCES[0] for prompt in dict.fromkeys(reference.card.prompts.values()) if prompt]
    longest = limit + 3 if limit <= LONGEST else LONGEST
    return [*texts, text_of_length(longest, reference.count_tokens, start=2)]


def make_canary(reference: Witness, source: str) -> Canary:
    """Compute the canary.

    Args:
        reference: the model.
        source: SOURCE of its checkpoint, for the canary's origin.

    Raises:
        CheckpointError: the vectors contradict the card.
    """
    card, texts = reference.card, canary_texts(reference)
    rows = [reference.tokenize(text).ids for text in texts]
    vectors = np.stack([reference.compute(reference.tokenize(text)) for text in texts])
    if vectors.shape[1] != card.dimension or not np.isfinite(vectors).all():
        raise CheckpointError(
            f"{source} gives vectors of {vectors.shape[1]} dimensions, the card of {card.name} says {card.dimension}; "
            f"{int((~np.isfinite(vectors)).any(axis=1).sum())} of them hold NaN or infinity"
        )
    tools = " ".join(f"{name} {version}" for name, version in reference.tools.items())
    return Canary(tuple(texts), Encodings.from_lists(rows), vectors, f"HuggingFace float32 ({tools}) on {source}")


def write_card_canary(
    name: Annotated[str, typer.Argument(help="The card.", show_default=False)],
    source: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The checkpoint; by default the card's own.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="By default beside the cards.")
    ] = None,
) -> None:
    """Compute a card's canary with HuggingFace in float32."""
    try:
        card = load_card(name)
        checkout = fetch(source or card.name)
        # A folder's path has no meaning elsewhere, and the card's digests prove that it is the published checkpoint.
        origin = card.name if source is None or Path(source).is_dir() else checkout.source
        for part, digest in card.sha256.items():
            if checkout.sha256.get(part, digest) != digest:
                raise CheckpointError(f"{part} of {checkout.source} is not the one that the card of {name} pins")
        canary = make_canary(load_witness(checkout.folder, card, zoo=True), origin)
        file = output or Path(fletcher.model_zoo.__path__[0]) / "canaries" / f"{card.name}.safetensors"
        write_canary(file, canary)
    except FletcherError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"{file}: {len(canary.texts)} texts, {canary.encodings.num_tokens} tokens, {file.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    typer.run(write_card_canary)
