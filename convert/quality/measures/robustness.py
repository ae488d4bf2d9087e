"""Changes of texts (case, typos, truncation), and the change of their vectors."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import nearest
from fletcher.quantize.samples import evenly_spaced

from ..results import Robustness

__all__ = ["CHANGES", "describe_robustness", "first_half", "with_typos"]

Vectors = NDArray[np.float32]

#: Most texts that are changed.
MOST_TEXTS = 500

#: One word of this many gets a typo.
WORDS_PER_TYPO = 10

#: A word in which two neighboring letters can be exchanged.
_WORD = re.compile(r"[^\W\d_]{3,}")


def with_typos(text: str) -> str:
    """Return the text with two neighboring, different letters exchanged in every tenth word, and in at least one."""
    words = list(_WORD.finditer(text))
    generator = random.Random(text)
    generator.shuffle(words)
    letters, left = list(text), -(-len(words) // WORDS_PER_TYPO)
    for word in words:
        places = [place for place in range(word.start(), word.end() - 1) if letters[place] != letters[place + 1]]
        if left and places:
            place = generator.choice(places)
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
            left -= 1
    return "".join(letters)


def first_half(text: str) -> str:
    """Return the first half of the words of a text, rounded up."""
    words = text.split()
    return " ".join(words[: -(-len(words) // 2)]) if len(words) > 1 else text


#: Functions that change a text, by their names in reports.
CHANGES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"lower case": str.lower, "upper case": str.upper, "typos": with_typos, "first half": first_half}
)


def describe_robustness(texts: Sequence[str], unit: Vectors, embed: Callable[[list[str]], Vectors]) -> list[Robustness]:
    """Measure how far the vectors of changed texts are from the originals; a change that changes no text is left out.

    Args:
        texts: the texts.
        unit: their vectors, of length 1, (n, dimension).
        embed: returns vectors of length 1 of changed texts.
    """
    sample = evenly_spaced(len(texts), MOST_TEXTS).tolist()
    results = []
    for name, change in CHANGES.items():
        changed = [(row, after) for row in sample if (after := change(texts[row])) != texts[row]]
        if not changed:
            continue
        rows = np.array([row for row, _ in changed])
        vectors = embed([after for _, after in changed])
        cosines = np.einsum("nd,nd->n", vectors, unit[rows])
        # The original counts as found if no other text is nearer: a copy with another case may be equally near.
        best = np.einsum("nd,nd->n", vectors, unit[nearest(vectors, unit, 1)[:, 0]])
        results.append(
            Robustness(
                change=name,
                texts=len(rows),
                cosine_mean=float(cosines.mean()),
                cosine_p5=float(np.percentile(cosines, 5)),
                found=float((cosines >= best - 1e-6).mean()),
            )
        )
    return results
