"""The texts of a sweep: some to calibrate with, others to judge by, so that no recipe is judged by what it has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.corpora import corpus
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from .pairs import LabeledPairs

__all__ = ["BUILT_IN", "FEWEST_TEXTS", "SweepTexts", "built_in_texts", "sweep_texts"]

#: Ten neighbors among fewer are most of them; and a quarter of these calibrates.
FEWEST_TEXTS = 128

#: Texts that are judged, and that calibrate, at most: the smallest cosine of 1,000 texts is that of one in a thousand.
MOST_JUDGED, MOST_CALIBRATING = 1000, 256

#: One text in so many calibrates.
CALIBRATING_SHARE = 4

#: How the built-in texts are called: documentation with a long tail of lengths, and its first sentences, as short as queries.
BUILT_IN = "docstrings and first sentences of Python's standard library"


@dataclass(frozen=True, slots=True)
class SweepTexts:
    """What a sweep runs over.

    Attributes:
        name: where the texts come from, for the report.
        calibrating: texts that recipes and stored vectors learn from.
        judged: texts that results are compared on; none of them calibrates.
        calibrating_ids: the first ones' tokens, with the model's prompt for documents.
        judged_ids: the others'.
        pairs: judged pairs, if any were given.
        digest: hex digest of all of them.
    """

    name: str
    calibrating: tuple[str, ...]
    judged: tuple[str, ...]
    calibrating_ids: Encodings
    judged_ids: Encodings
    pairs: LabeledPairs | None
    digest: str


def built_in_texts() -> list[str]:
    """Half of them documentation, half short sentences, the same on every machine with the same Python."""
    count = MOST_JUDGED + MOST_CALIBRATING
    long, short = corpus("docstrings", count // 2), corpus("sentences", count // 2, seed=1)
    return [text for both in zip(long, short, strict=True) for text in both]


def sweep_texts(
    artifact: Artifact, texts: Sequence[str], *, name: str, pairs: LabeledPairs | None = None
) -> SweepTexts:
    """Shares texts out, evenly over the order given.

    Args:
        artifact: whose tokenizer and prompt they get.
        texts: any number; empty ones and repetitions are left out, and of very many some.
        name: where they come from.
        pairs: judged pairs.

    Raises:
        InputError: too few texts, or all of one length.
    """
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(different) < FEWEST_TEXTS:
        raise InputError(
            f"{name}: {len(different)} different texts are too few to calibrate and to judge with; give at least "
            f"{FEWEST_TEXTS}, or leave --texts out for the built-in ones"
        )
    most = MOST_JUDGED + MOST_CALIBRATING
    if len(different) > most:
        different = [different[place] for place in np.linspace(0, len(different) - 1, most).astype(int)]
    every = max(CALIBRATING_SHARE, -(-len(different) // MOST_CALIBRATING))
    calibrating = different[::every]
    judged = [text for place, text in enumerate(different) if place % every]
    card = artifact.manifest.card
    tokenizer = Tokenizer(artifact.tokenizer_file, card.max_tokens)
    prompt = card.prompts.get("document", "")
    ids, judged_ids = (tokenizer.encode([prompt + text for text in part]) for part in (calibrating, judged))
    lengths = np.unique(np.concatenate([ids.lengths, judged_ids.lengths]))
    if len(lengths) == 1:
        raise InputError(
            f"{name}: every text has {lengths[0]} tokens, and what fits one length need not fit another: "
            "mix short and long texts"
        )
    told = [calibrating, judged]
    if pairs is not None:
        told += [list(pairs.first), list(pairs.second), [repr(score) for score in pairs.scores.tolist()]]
    digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
    return SweepTexts(name, tuple(calibrating), tuple(judged), ids, judged_ids, pairs, digest)
