"""`SplitTexts`: the texts of a measurement. Some calibrate and the others are measured, so no text does both."""

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
from fletcher.runtime.loading import open_tokenizer

from ..samples import evenly_spaced
from .pairs import LabeledPairs

__all__ = ["BUILT_IN", "FEWEST_TEXTS", "SplitTexts", "built_in_texts", "default_texts", "split_texts"]

#: Fewest texts of a sweep: a quarter of them calibrates, and ten neighbors should be a small part of the others.
FEWEST_TEXTS = 128

#: Most texts that are measured and that calibrate. The smallest cosine of 1,000 texts is a rate of one in a thousand.
MOST_MEASURED, MOST_CALIBRATING = 1000, 256

#: One text of this many calibrates.
CALIBRATING_SHARE = 4

#: Name of the built-in texts in reports.
BUILT_IN = "docstrings and first sentences of Python's standard library"


@dataclass(frozen=True, slots=True)
class SplitTexts:
    """`SplitTexts`: the texts of a sweep, split into calibrating and measured ones.

    Attributes:
        name: source of the texts, for the report.
        calibrating: texts that recipes and stored vectors are calibrated with.
        measured: texts that results are compared on.
        calibrating_ids: tokens of the calibrating texts, with the model's prompt for documents.
        measured_ids: tokens of the measured texts, with the same prompt.
        pairs: pairs with a similarity score given by people, or None.
        digest: hex digest of all texts and pairs.
    """

    name: str
    calibrating: tuple[str, ...]
    measured: tuple[str, ...]
    calibrating_ids: Encodings
    measured_ids: Encodings
    pairs: LabeledPairs | None
    digest: str


def built_in_texts(count: int, *, sentence_seed: int = 0) -> list[str]:
    """Return `count` docstrings and `count` first sentences of Python's standard library, in turn.

    Docstrings have a long tail of lengths, and sentences are as short as queries. All machines with the same version of
    Python have the same texts.

    Args:
        count: number of texts of each kind.
        sentence_seed: seed of the order of the sentences.
    """
    pairs = zip(corpus("docstrings", count), corpus("sentences", count, seed=sentence_seed), strict=True)
    return [text for pair in pairs for text in pair]


def default_texts() -> list[str]:
    """Return the built-in texts of a sweep."""
    return built_in_texts((MOST_MEASURED + MOST_CALIBRATING) // 2, sentence_seed=1)


def split_texts(
    artifact: Artifact, texts: Sequence[str], *, name: str, pairs: LabeledPairs | None = None
) -> SplitTexts:
    """Split texts evenly over their order.

    Args:
        artifact: the artifact whose tokenizer and prompt apply.
        texts: any number of texts; empty and repeated ones are omitted, and an even sample is taken of very many.
        name: source of the texts.
        pairs: pairs with a similarity score given by people.

    Raises:
        InputError: there are too few texts, or all have the same length.
    """
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(different) < FEWEST_TEXTS:
        raise InputError(
            f"{name}: {len(different)} different texts are too few to calibrate and to measure with; give at least "
            f"{FEWEST_TEXTS}, or omit --texts to use the built-in texts"
        )
    most = MOST_MEASURED + MOST_CALIBRATING
    different = [different[index] for index in evenly_spaced(len(different), most)]
    every = max(CALIBRATING_SHARE, -(-len(different) // MOST_CALIBRATING))
    calibrating = different[::every]
    measured = [text for index, text in enumerate(different) if index % every]
    card = artifact.manifest.card
    tokenizer = open_tokenizer(artifact)
    prompt = card.prompts.get("document", "")
    ids, measured_ids = (tokenizer.encode([prompt + text for text in part]) for part in (calibrating, measured))
    lengths = np.unique(np.concatenate([ids.lengths, measured_ids.lengths]))
    if len(lengths) == 1:
        raise InputError(
            f"{name}: every text has {lengths[0]} tokens, and a result for one length need not hold for another: "
            "mix short and long texts"
        )
    content = [calibrating, measured]
    if pairs is not None:
        content += [list(pairs.first), list(pairs.second), [repr(score) for score in pairs.scores.tolist()]]
    digest = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
    return SplitTexts(name, tuple(calibrating), tuple(measured), ids, measured_ids, pairs, digest)
