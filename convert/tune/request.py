"""`TuneRequest`: checkpoint, data and options of a training, and the steps that several methods share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import Progress
from fletcher.quantize.measure.pairs import LabeledPairs
from fletcher.quantize.recipe import Recipe, load_recipe
from fletcher.runtime import Encoder

from ..quality.embedded import unit_vectors
from .data.examples import Example
from .data.split import Split, SplitTexts, split_without_leaks
from .options import OutputOptions, SplitOptions, TrainingOptions
from .outcome.figures import Embed
from .outcome.results import Method
from .outcome.state import make_key

__all__ = [
    "TuneRequest",
    "artifact_embed",
    "changed_share",
    "column_prompts",
    "cut_share",
    "cut_texts",
    "split_pairs",
    "split_texts",
    "torch_embed",
    "with_progress",
]

#: Texts between two counts of the progress.
CHUNK = 1024

#: Most texts that calibrate a recipe.
CALIBRATING = 256

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """`TuneRequest`: checkpoint, data and options of a training.

    Attributes:
        source: SOURCE of the checkpoint.
        output: folder of the training and its results.
        data: file or folder of the data.
        split: options of the split.
        training: options of the training.
        artifacts: options of the artifacts.
        pairs: pairs with a similarity score given by people, which are measured before and after; None for none.
    """

    source: str
    output: Path
    data: Path
    split: SplitOptions = field(default_factory=SplitOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    artifacts: OutputOptions = field(default_factory=OutputOptions)
    pairs: LabeledPairs | None = None

    @property
    def recipe(self) -> Recipe | None:
        """Recipe that quantizes the tuned model; None if it is not quantized.

        Raises:
            InputError: the recipe does not exist.
        """
        return None if self.artifacts.recipe == "none" else load_recipe(self.artifacts.recipe)

    def key(self, method: Method, files: object, content: object, options: object = None) -> str:
        """Return a hash of everything that the training depends on.

        Args:
            method: the method.
            files: digests of the checkpoints and artifacts that it reads.
            content: the data.
            options: options of the method.
        """
        return make_key([method, files, content, msgspec.to_builtins([self.split, self.training, options])])

    def calibrating(self, texts: Sequence[str], most: int = CALIBRATING) -> list[str]:
        """Return an even sample of the training texts, at most `most`, that calibrates the recipe."""
        rows = np.unique(np.linspace(0, len(texts) - 1, min(most, len(texts))).astype(int))
        return [texts[row] for row in rows.tolist()]


@contextmanager
def artifact_embed(folder: Path) -> Iterator[Embed]:
    """Load an artifact, and yield the function that returns its vectors of length 1."""
    with Encoder.load(folder) as encoder:

        def embed(texts: Sequence[str], input_type: str) -> Vectors:
            return unit_vectors(encoder.embed(texts, input_type=input_type).vectors, texts)

        yield embed


def torch_embed(model: Any, card: ModelCard) -> Embed:
    """Return the function that returns vectors of length 1 of a model in torch, with the prompts of a card."""

    def embed(texts: Sequence[str], input_type: str) -> Vectors:
        prompt = "" if input_type == "raw" else card.prompts.get(input_type, "")
        vectors = model.encode(
            list(texts), prompt=prompt, batch_size=32, show_progress_bar=False, convert_to_numpy=True
        )
        return unit_vectors(np.asarray(vectors, np.float32), texts)

    return embed


def with_progress(embed: Embed, progress: Progress) -> Embed:
    """Return an embedding function that counts its texts."""

    def counted(texts: Sequence[str], input_type: str) -> Vectors:
        parts = []
        with progress.count("embedding", total=len(texts), units=("texts",)) as counter:
            for start in range(0, len(texts), CHUNK):
                part = texts[start : start + CHUNK]
                parts.append(embed(part, input_type))
                counter.advance(len(part))
        return np.concatenate(parts)

    return counted


def cut_texts(model: Any, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Return texts that end where the longest text in training ends."""
    found = model.tokenizer(
        list(texts), truncation=True, max_length=max_tokens, padding=False, return_offsets_mapping=True, verbose=False
    )
    whole = model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
    return [
        text if len(ids) <= max_tokens else text[: max(end for _, end in offsets)]
        for text, ids, offsets in zip(texts, whole, found["offset_mapping"], strict=True)
    ]


def changed_share(texts: Sequence[str], cut: Sequence[str]) -> float:
    """Return the share of the texts that were cut."""
    return float(np.mean([one != other for one, other in zip(texts, cut, strict=True)]))


def cut_share(model: Any, texts: Sequence[str], length: int, progress: Progress) -> tuple[float, int]:
    """Return the share of the texts that are cut in training, and the tokens of the longest text."""
    share = changed_share(texts, cut_texts(model, texts, length))
    if share:
        progress.line(f"{share:.1%} of the training texts have more than {length} tokens and are cut")
    return share, length


def column_prompts(card: ModelCard, columns: Iterable[str]) -> dict[str, str]:
    """Return the model's prompt of each column of pairs that has one: `query`, and columns of documents."""
    prompts = {name: card.prompts.get("query" if name == "query" else "document", "") for name in columns}
    return {name: prompt for name, prompt in prompts.items() if prompt}


def split_pairs(request: TuneRequest, items: Sequence[Example], base: Path, progress: Progress) -> Split:
    """Split examples by the vectors of the model before the training.

    Raises:
        InputError: too few examples remain for validation or test.
    """
    keys = [(one.query, one.positive) for one in items]
    texts = list(dict.fromkeys(text for pair in keys for text in pair))
    progress.line("embedding all texts to find near-duplicates between training and held-out data")
    with artifact_embed(base) as embed:
        vectors = with_progress(embed, progress)(texts, "raw")
    places = {text: row for row, text in enumerate(texts)}
    return split_texts(request, SplitTexts(keys, places, vectors, [one.group for one in items]), progress)


def split_texts(request: TuneRequest, texts: SplitTexts, progress: Progress) -> Split:
    """Split examples, and show their numbers.

    Raises:
        InputError: too few examples remain for validation or test.
    """
    split = split_without_leaks(texts, request.split, request.training.seed)
    progress.line(
        f"{len(split.train):,} examples to train, {len(split.validation):,} to validate, {len(split.test):,} to test; "
        f"{split.moved:,} moved because of near-duplicates"
    )
    return split
